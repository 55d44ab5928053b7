"""LoRA Land on Ray: train many small LoRA adapters, judge them with intervals, serve them together.

Importing the package loads neither torch nor Ray; each subpackage says in its opening what it
needs.
"""

__version__ = "0.1.0"
