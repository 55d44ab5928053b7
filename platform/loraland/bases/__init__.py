"""Bases: the frozen models that adapters stand on."""

import logging

# bitsandbytes warns at import, on every CPU, about an optional kernel that it would download.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
