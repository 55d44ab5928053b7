"""Runs one program inside limits that it cannot leave; a script, started only by `sandbox.py`.

It reads the program, gives up every right that the program does not need (Landlock: files;
seccomp: system calls; rlimits: memory, time, file size), proves that they are gone, and only then
runs it, in this process. Knows nothing of tasks or tests. Standard library alone: it is started
without site-packages, without the caller's environment, by its path.

What a program keeps: computing, reading Python's own library, flat files in one folder, printing.
What it has not: network and sockets of any kind, other processes and threads, signals to others,
any other file, raising its limits.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import sys
import types
from typing import Any, NoReturn

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # <linux/prctl.h>

# Landlock, <linux/landlock.h>; its three system calls have these numbers on every architecture.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE, MAKE_REG, TRUNCATE = (
    1 << bit for bit in (1, 2, 3, 5, 8, 14)
)
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # version of the interface -> bits it knows

# libseccomp, <seccomp.h>
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
EQUAL, MASKED_EQUAL = 4, 7

_CALLS = """
    read readv pread64 preadv write writev pwrite64 pwritev close lseek fsync fdatasync ftruncate
    dup dup2 dup3 pipe pipe2 poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait
    epoll_pwait eventfd2
    stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat getcwd chdir
    getdents getdents64 rename renameat renameat2 unlink unlinkat umask
    brk mmap munmap mremap mprotect madvise membarrier
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack pause alarm getitimer setitimer
    nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times getrusage
    getpid gettid getuid geteuid getgid getegid uname sysinfo getrandom getcpu
    sched_yield sched_getaffinity getrlimit
    futex set_robust_list rseq restart_syscall exit exit_group
"""
# Calls that are allowed with some arguments only: name -> the alternatives, each a list of
# (argument, comparison, a, b), all of which must hold.
TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONCLEX, FIOCLEX
FCNTL_HARMLESS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_{GET,SET}{FD,FL}, F_DUPFD_CLOEXEC


class Unconfined(Exception):
    """A right could not be given up; the message says which, and what would help."""


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("comparison", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def confine(order: dict[str, Any]) -> None:
    """Give up all rights but the listed ones, for good. Raises Unconfined."""
    libc = ctypes.CDLL(None, use_errno=True)
    die_with_parent(libc, order["parent"])
    limit_resources(order)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise Unconfined("prctl(NO_NEW_PRIVS) is refused by this kernel")
    seccomp = _load_libseccomp()
    close_files(libc, order["readable"], order["work"])
    close_calls(seccomp)
    prove(libc, order["parent"])


def die_with_parent(libc: ctypes.CDLL, parent: int) -> None:
    """The kernel kills this process when the one that started it ends, however that ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def limit_resources(order: dict[str, Any]) -> None:
    """Bounds on memory, CPU seconds, bytes of a file, open files; no core file."""
    for kind, most in (
        (resource.RLIMIT_AS, order["memory_bytes"]),
        (resource.RLIMIT_FSIZE, order["file_bytes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    # At the soft limit comes SIGXCPU, which can be ignored, at the hard one SIGKILL, which cannot.
    resource.setrlimit(resource.RLIMIT_CPU, (order["cpu_s"], order["cpu_s"] + 1))


def close_files(libc: ctypes.CDLL, readable: list[str], work: str) -> None:
    """Landlock: `readable` may be read, flat files in `work` made and changed, nothing else."""
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        raise Unconfined(
            "this kernel has no Landlock (it came with Linux 5.13); boot a kernel that has it, "
            "with 'landlock' among its security modules (lsm=landlock,...)"
        )
    files = (1 << FILE_RIGHTS[min(version, 5)]) - 1
    rules = _Ruleset(files, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        raise Unconfined(f"Landlock makes no rules: {os.strerror(ctypes.get_errno())}")
    for path in readable:
        if os.path.exists(path):
            rights = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
            _allow_beneath(libc, ruleset, path, rights)
    rights = READ_FILE | READ_DIR | WRITE_FILE | REMOVE_FILE | MAKE_REG | TRUNCATE
    _allow_beneath(libc, ruleset, work, rights & files)
    if libc.syscall(RESTRICT_SELF, ruleset, 0):
        raise Unconfined(f"Landlock does not close: {os.strerror(ctypes.get_errno())}")
    os.close(ruleset)


def _allow_beneath(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = _Beneath(rights, folder)
    if libc.syscall(ADD_RULE, ruleset, 1, ctypes.byref(rule), 0):
        raise Unconfined(f"Landlock refuses {path}: {os.strerror(ctypes.get_errno())}")
    os.close(folder)


def _load_libseccomp() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise Unconfined(
            "libseccomp.so.2 is not installed; on Debian and Ubuntu type "
            "`apt-get install libseccomp2`"
        ) from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    ]
    return library


def close_calls(library: ctypes.CDLL) -> None:
    """Seccomp: every system call outside the list fails with EPERM, on any architecture."""
    context = library.seccomp_init(REFUSE)
    if not context:
        raise Unconfined("libseccomp cannot start a filter")
    for name in _CALLS.split():
        _allow(library, context, name)
    for name, alternatives in _conditional_calls().items():
        for comparisons in alternatives:
            _allow(library, context, name, *comparisons)
    if failed := library.seccomp_load(context):
        raise Unconfined(f"this kernel takes no seccomp filter: {os.strerror(-failed)}")


def _conditional_calls() -> dict[str, list[list[tuple[int, int, int, int]]]]:
    mode, writing = os.O_ACCMODE, (os.O_WRONLY, os.O_RDWR)
    calls: dict[str, list[list[tuple[int, int, int, int]]]] = {
        "ioctl": [[(1, EQUAL, question, 0)] for question in TERMINAL_QUESTIONS],
        "fcntl": [[(1, EQUAL, command, 0)] for command in FCNTL_HARMLESS],
        # abort() and raise() signal the own process, which is all there is to signal.
        "tgkill": [[(0, EQUAL, os.getpid(), 0)]],
        # Limits may be read, never set: root could raise them.
        "prlimit64": [[(2, EQUAL, 0, 0)]],
    }
    # Before its third version Landlock lets O_RDONLY | O_TRUNC empty a file that may be read.
    for name, flags in (("open", 1), ("openat", 2)):
        calls[name] = [[(flags, MASKED_EQUAL, os.O_TRUNC, 0)]]
        calls[name] += [[(flags, MASKED_EQUAL, mode, way)] for way in writing]
    return calls


def _allow(
    library: ctypes.CDLL, context: int, name: str, *comparisons: tuple[int, int, int, int]
) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number < 0:
        return  # this architecture has no such call
    array = (_Comparison * len(comparisons))(*(_Comparison(*each) for each in comparisons))
    if library.seccomp_rule_add_array(context, ALLOW, number, len(comparisons), array):
        raise Unconfined(f"libseccomp refuses a rule for {name}")


def prove(libc: ctypes.CDLL, parent: int) -> None:
    """Raises Unconfined when a file, a socket or a signal to the parent is still to be had."""
    try:
        os.listdir("/")
    except PermissionError:
        pass
    else:
        raise Unconfined("the root folder can still be read in spite of Landlock")
    if libc.socket(2, 1, 0) >= 0:
        raise Unconfined("a socket can still be opened in spite of seccomp")
    if libc.kill(parent, 0) == 0:
        raise Unconfined("the parent can still be signalled in spite of seccomp")


def main() -> NoReturn:
    """Read the order (JSON in the first argument), confine this process, run the program."""
    order = json.loads(sys.argv[1])
    leave, write, report_to = os._exit, os.write, order["report"]

    def say(outcome: str, detail: str = "") -> None:
        write(report_to, json.dumps([outcome, detail[:500]]).encode() + b"\n")

    def report(outcome: str, detail: str = "") -> NoReturn:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        say(outcome, detail)
        leave(0)

    try:
        with open(order["program"], "rb") as file:
            text = file.read()
        os.chdir(order["work"])
        confine(order)
    except Exception as error:
        report("unconfined", str(error) or type(error).__name__)
    say("confined")  # the first line, which no program can take back
    sys.argv = ["program"]
    sys.orig_argv = ["program"]
    module = types.ModuleType("program")  # no `__main__`: what stands behind that test is not asked
    sys.modules["program"] = module
    try:
        code = compile(text, "<program>", "exec")
    except Exception as error:  # SyntaxError; too deep, NUL and wrong UTF-8 have others
        report("unreadable", f"{type(error).__name__}: {error}")
    try:
        exec(code, module.__dict__)
    except SystemExit:
        report("exited", "the program ended itself before its last line")
    except BaseException as error:
        report("raised", _describe(error))
    report("finished")


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # of a program's own class
        return type(error).__name__


if __name__ == "__main__":
    main()
