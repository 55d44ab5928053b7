"""Entry points for `ray job submit -- python -m train_jobs.NAME`.

In a checkout they use its own library.
"""

import sys
from pathlib import Path

# The code that was submitted comes before any that is installed on the cluster.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "platform"))
