"""Runs generated programs in a confined process, and says how each of them ended.

A program gets no network, no file but Python's library and a folder of its own, no other process,
bounded memory, time and output, and none of the caller's environment (`confined.py` closes these
doors from the inside: Landlock, seccomp, rlimits). Needs no root and no other program. Where a
door cannot be closed nothing is run. Linux only. Knows nothing of items or scores.

What it does not hide: whether a path exists and how large it is. What it does not detect: a program
that knows this page and reports success on purpose; a verdict is about honest mistakes.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from loraland.errors import SandboxUnavailable
from loraland.tasks.grading import Verdict

MiB = 1 << 20
MOST_CHARACTERS = 200_000  # of a program
WATCH_MS = 50  # between two looks at the folder
# Without the user's site-packages, the caller's folder on the path, and byte code files.
INTERPRETER = ("-s", "-S", "-P", "-B", "-X", "utf8")
SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
ZONES = "/usr/share/zoneinfo"

Outcome = Literal[
    "finished",  # ran to its last line
    "raised",  # ended by an exception
    "exited",  # ended itself by sys.exit
    "unreadable",  # not a program: Python does not compile it
    "timeout",  # over the limit of seconds
    "overflow",  # wrote more files or bytes than it may
    "died",  # ended without a word: killed, os._exit, a crash
]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use."""

    cpu_s: int = 5
    wall_s: float = 10.0
    memory_bytes: int = 512 * MiB  # of address space, the interpreter included
    file_bytes: int = MiB  # of one file, and of what is printed
    folder_bytes: int = 8 * MiB  # of all files in its folder
    files: int = 64


class Ended(NamedTuple):
    """How a program ended."""

    outcome: Outcome
    detail: str  # the exception, the signal or the limit
    output: str  # what it printed, standard output and error together, cut at `file_bytes`


def run_confined(program: str, limits: Limits | None = None) -> Ended:
    """Run a Python program and wait for its end; nothing of it is left behind.

    Raises SandboxUnavailable when this machine cannot confine it; then it was not run.
    """
    limits = limits or Limits()
    if sys.platform != "linux":
        raise SandboxUnavailable(
            f"generated programs are confined by Linux's Landlock and seccomp, and this is "
            f"{sys.platform}; judge such tasks on Linux"
        )
    if len(program) > MOST_CHARACTERS:
        return Ended("unreadable", f"{len(program)} characters, at most {MOST_CHARACTERS}", "")
    with tempfile.TemporaryDirectory(prefix="loraland-run-") as named:
        place = Path(named)
        (place / "work").mkdir()
        (place / "program.py").write_bytes(program.encode("utf-8", "surrogatepass"))
        with open(place / "output", "w+b") as printed:
            outcome, detail = _run(place, printed.fileno(), limits)
            printed.seek(0)
            output = printed.read(limits.file_bytes).decode("utf-8", "replace")
    return Ended(outcome, detail, output)


@cache
def require_sandbox() -> None:
    """Raises SandboxUnavailable, saying what is missing, when programs cannot be confined here."""
    ended = run_confined("import collections, hashlib, itertools, json, math, re, typing")
    if ended.outcome != "finished":
        raise SandboxUnavailable(
            f"a confined Python cannot import its own library ({ended.outcome}: {ended.detail}); "
            f"it may read {', '.join(_readable())}: use a Python that lies there"
        )


def judge_program(program: str) -> Verdict:
    """Whether a program with its tests is Python, and runs to its last line within the limits.

    Raises SandboxUnavailable.
    """
    outcome = run_confined(program).outcome
    return Verdict(readable=outcome != "unreadable", passed=outcome == "finished")


def _run(place: Path, output: int, limits: Limits) -> tuple[Outcome, str]:
    report, report_to = os.pipe()
    try:
        process = _start(place, output, report_to, limits)
        os.close(report_to)
        report_to = -1
        try:
            broken = _wait(process, place / "work", limits)
        finally:
            _kill(process)
        said = _read_report(report)
    finally:
        os.close(report)
        if report_to >= 0:
            os.close(report_to)
    _require_confined(said, broken[1] if broken else "")
    return broken or _outcome(said, process.returncode, limits)


def _start(place: Path, output: int, report_to: int, limits: Limits) -> subprocess.Popen[bytes]:
    work = str(place / "work")
    order = asdict(limits) | {
        "parent": os.getpid(),
        "program": str(place / "program.py"),
        "work": work,
        "readable": list(_readable()),
        "report": report_to,
    }
    script = Path(__file__).with_name("confined.py")
    return subprocess.Popen(
        [sys.executable, *INTERPRETER, str(script), json.dumps(order)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[report_to],
        cwd=place,
        env={
            "HOME": work,
            "TMPDIR": work,
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONHASHSEED": "0",  # the order of sets is the same in every run
        },
        start_new_session=True,  # a process group of its own
    )


def _readable() -> Iterator[str]:
    """What an interpreter needs to import its own library."""
    paths = sysconfig.get_paths()
    yield from dict.fromkeys((paths["stdlib"], paths["platstdlib"], f"{sys.base_prefix}/lib"))
    yield from (*SYSTEM_LIBRARIES, ZONES)


def _wait(
    process: subprocess.Popen[bytes], work: Path, limits: Limits
) -> tuple[Outcome, str] | None:
    """Wait for the end; the limit that was broken, if one was. The process may still be there."""
    until = time.monotonic() + limits.wall_s
    ended = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        while not poll.poll(WATCH_MS):
            if over := _overflow(work, limits):
                return "overflow", over
            if time.monotonic() > until:
                return "timeout", f"over {limits.wall_s:g} s"
    finally:
        os.close(ended)
    return None


def _overflow(work: Path, limits: Limits) -> str:
    count = size = 0
    with os.scandir(work) as entries:
        for entry in entries:
            count += 1
            try:
                size += entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:  # deleted just now
                continue
            if count > limits.files or size > limits.folder_bytes:
                return f"over {limits.files} files or {limits.folder_bytes} bytes"
    return ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The program can start no process, so that its group is this one; the group all the same.
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read_report(report: int) -> list[tuple[str, str]]:
    """The lines (word, detail) of the report; what is no such line, a program wrote: left out."""
    os.set_blocking(report, False)
    lines = []
    with suppress(BlockingIOError):
        for line in os.read(report, 65_536).splitlines():
            with suppress(ValueError, TypeError, RecursionError):
                word, detail = json.loads(line)
                lines.append((str(word), str(detail)))
    return lines


def _require_confined(said: list[tuple[str, str]], broken: str) -> None:
    """Raises SandboxUnavailable unless the first line says that all doors were closed."""
    word, detail = said[0] if said else ("", broken or "the interpreter ended before the program")
    if word != "confined":
        raise SandboxUnavailable(
            f"generated programs cannot be confined on this machine: {detail}. Nothing was run; "
            "repair that, or choose tasks without code"
        )


def _outcome(said: list[tuple[str, str]], code: int, limits: Limits) -> tuple[Outcome, str]:
    if code == 0 and len(said) == 2:
        for known in ("finished", "raised", "exited", "unreadable"):
            if said[1][0] == known:
                return known, said[1][1]
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout", f"killed, as after {limits.cpu_s} s of CPU time"
    return "died", f"signal {-code}" if code < 0 else f"exit code {code} without a report"
