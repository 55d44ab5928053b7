"""Where a result comes from.

Package versions, git commit, hardware. For cards and benchmark lines.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "loraland",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "deepspeed",
    "ray",
    "datasets",
    "pyarrow",
)


def package_versions() -> dict[str, str]:
    """The installed versions of the packages that can change a result."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # run from a working directory, or a GPU image without it
    return versions


def git_state() -> tuple[str | None, bool | None]:
    """The commit this code is at and whether it was changed since.

    (None, None) outside a checkout.
    """
    here = Path(__file__).parent
    commit = _git(here, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _git(here, "status", "--porcelain", "--untracked-files=no")
    return commit, changes is None or changes != ""


def hardware() -> str:
    """The device that a run of this process uses, e.g. "1 x NVIDIA H200" or "2 cores AMD EPYC"."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} cores {_processor()} {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
