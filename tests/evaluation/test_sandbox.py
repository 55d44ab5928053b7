"""Hostile programs: each tries something, none gets it, and nothing of it is left behind."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from loraland import settings
from loraland.errors import InvalidConfiguration, MetricUnavailable, SandboxUnavailable
from loraland.evaluation import sandbox, scoring
from loraland.evaluation.sandbox import Ended, Limits, require_sandbox, run_confined
from loraland.tasks.catalogue import get_task
from loraland.tasks.grading import gold_score
from loraland.tasks.metrics.programs import program
from loraland.tasks.sources import load_split

SHORT = Limits(cpu_s=2, wall_s=4.0)


@pytest.fixture(autouse=True)
def sandboxed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which programs get theirs; after a test nothing is left in it, or runs."""
    try:
        require_sandbox()
    except SandboxUnavailable as missing:
        pytest.skip(missing.message)
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []
    assert processes_with(str(folder)) == []


def processes_with(text: str) -> list[int]:
    """The processes whose command line holds a text."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def run(text: str, limits: Limits = SHORT) -> Ended:
    return run_confined(textwrap.dedent(text), limits)


def assert_refused(ended: Ended) -> None:
    assert ended.outcome == "raised", ended
    assert ended.detail.startswith(("PermissionError", "BlockingIOError", "RuntimeError: can't"))


def test_a_program_runs_and_its_output_is_kept() -> None:
    assert run("print('hello')\nimport sys; sys.stderr.write('there')") == Ended(
        "finished", "", "hello\nthere"
    )


def test_python_s_own_library_is_there() -> None:
    names = "bisect collections copy datetime decimal fractions functools hashlib heapq itertools"
    names += " json math operator random re sqlite3 statistics string time typing zoneinfo"
    assert run(f"import {', '.join(names.split())}").outcome == "finished"


@pytest.mark.parametrize(
    ("text", "outcome", "detail"),
    [
        ("1 / 0", "raised", "ZeroDivisionError: division by zero"),
        ("assert 1 == 2", "raised", "AssertionError: "),
        ("raise KeyboardInterrupt", "raised", "KeyboardInterrupt: "),
        ("import sys; sys.exit(0)", "exited", "the program ended itself"),
        ("exit()", "raised", "NameError"),
        ("import os; os._exit(0)", "died", "exit code 0 without a report"),
        ("import os; os.abort()", "died", f"signal {int(signal.SIGABRT)}"),
        ("import ctypes; ctypes.string_at(0)", "died", f"signal {int(signal.SIGSEGV)}"),
        ("def f(:", "unreadable", "SyntaxError"),
        ("x = '\0'", "unreadable", ""),
        ("x = '\ud800'", "unreadable", "SyntaxError"),
        ("(" * 5000, "unreadable", ""),
        ("#" * 300_000, "unreadable", "300000 characters"),
        ("input()", "raised", "EOFError"),
        ("def f(): f()\nf()", "raised", "RecursionError"),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", "raised", "E"),
    ],
    ids=lambda text: text[:20].encode("ascii", "backslashreplace").decode(),
)
def test_every_end_has_its_name(text: str, outcome: str, detail: str) -> None:
    ended = run(text)
    assert (ended.outcome, ended.detail[: len(detail)]) == (outcome, detail)


def test_the_order_of_sets_is_the_same_every_time() -> None:
    text = "print({str(n) for n in range(50)})"
    assert run(text).output == run(text).output


class TestProcesses:
    @pytest.mark.parametrize(
        "text",
        [
            "import os\nwhile True: os.fork()",
            "import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()",
            "import threading\nthreading.Thread(target=print).start()",
            "import os\nos.posix_spawn('/bin/sh', ['sh', '-c', 'sleep 60 &'], {})",
            "import os\nos.execv('/bin/sh', ['sh'])",
            "import subprocess\nsubprocess.run(['/bin/sleep', '60'])",
            "import os\nos.vfork() if hasattr(os, 'vfork') else os.forkpty()",
        ],
    )
    def test_a_fork_bomb_or_a_child_to_leave_behind_is_not_started(self, text: str) -> None:
        assert_refused(run(text))

    def test_a_shell_is_not_started(self) -> None:
        ended = run("import os; print(os.system('sleep 60 & echo there') != 0)")
        assert ended.output == "True\n"

    def test_a_fork_bomb_that_catches_errors_ends_at_the_time_limit(self) -> None:
        text = """
            import os
            while True:
                try: os.fork()
                except OSError: pass
        """
        assert run(text, Limits(cpu_s=5, wall_s=0.5)).outcome == "timeout"

    @pytest.mark.parametrize(
        "text",
        [
            "os.kill(os.getppid(), signal.SIGKILL)",
            "os.kill(-1, signal.SIGKILL)",
            "os.killpg(0, signal.SIGKILL)",
            "os.kill(1, 0)",
            "signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
            "fcntl.fcntl(1, fcntl.F_SETOWN, os.getppid())",
            "os.setsid()",
            "os.setpriority(os.PRIO_PROCESS, 0, 19)",
            "os.sched_setaffinity(0, {0})",
            "os.setuid(1)",
        ],
    )
    def test_the_parent_is_not_signalled_and_nothing_changes_what_it_is(self, text: str) -> None:
        assert_refused(run(f"import os, signal, fcntl\n{text}"))

    def test_a_program_goes_when_its_caller_is_killed(self, sandboxed: Path) -> None:
        source = Path(sandbox.__file__).parents[2]
        code = (
            f"import sys, tempfile; sys.path.insert(0, {str(source)!r})\n"
            f"tempfile.tempdir = {str(sandboxed)!r}\n"
            "from loraland.evaluation.sandbox import run_confined\n"
            "run_confined('while True: pass')"
        )
        caller = subprocess.Popen([sys.executable, "-c", code, "caller"])
        try:
            wait_until(lambda: len(processes_with(str(sandboxed / "loraland-run-"))) == 1)
        finally:
            caller.send_signal(signal.SIGKILL)
            caller.wait()
        wait_until(lambda: processes_with(str(sandboxed / "loraland-run-")) == [])
        for left in sandboxed.iterdir():  # no one was there to tidy up
            for path in sorted(left.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            left.rmdir()


def wait_until(true: object, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        if time.monotonic() > until:
            pytest.fail("it did not come")
        time.sleep(0.02)


class TestNetwork:
    @pytest.mark.parametrize(
        "text",
        [
            "socket.create_connection(('127.0.0.1', 80), 1)",
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))",
            "socket.socket(socket.AF_INET6)",
            "socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')",
            "socket.socketpair()",
            "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
            "__import__('urllib.request').request.urlopen('http://127.0.0.1')",
        ],
    )
    def test_no_socket_of_any_kind_is_opened(self, text: str) -> None:
        ended = run(f"import socket\n{text}")
        assert ended.outcome == "raised"
        assert "Operation not permitted" in ended.detail

    def test_system_calls_without_a_wrapper_are_refused_too(self) -> None:
        text = """
            import ctypes, os
            libc = ctypes.CDLL(None, use_errno=True)
            # socket, ptrace, unshare, setrlimit, io_uring_setup, bpf, mount, memfd_create, clone3
            for number in (41, 101, 272, 160, 425, 321, 165, 319, 435):
                assert libc.syscall(number, 2, 1, 0, 0, 0) == -1, number
                assert ctypes.get_errno() == 1, (number, ctypes.get_errno())
        """
        if os.uname().machine != "x86_64":
            pytest.skip("the numbers are those of x86-64")
        assert run(text).outcome == "finished"


class TestFiles:
    @pytest.mark.parametrize(
        "path",
        ["/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/self/maps", "/dev/mem",
         "/dev/sda", "/dev/kmsg", "/root/.bashrc", "/var/log/dpkg.log"],
    )  # fmt: skip
    def test_no_file_outside_is_read(self, path: str) -> None:
        assert_refused_or_missing(run(f"open({path!r}).read()"), path)

    def test_the_home_folder_is_neither_read_nor_listed(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("abc")
        assert_refused(run(f"print(open({str(secret)!r}).read())"))
        assert_refused(run(f"import os; print(os.listdir({str(tmp_path)!r}))"))
        assert_refused(run(f"import os; print(os.listdir({str(Path.home())!r}))"))
        assert_refused(run("import os; print(os.listdir('..'))"))
        assert_refused(run("import os; print(os.listdir('/proc'))"))

    def test_the_caller_s_environment_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        ended = run("import os; print(sorted(os.environ), os.path.expanduser('~') == os.getcwd())")
        assert ended.output == "['HOME', 'LANG', 'PYTHONHASHSEED', 'TMPDIR', 'TZ'] True\n"

    def test_the_caller_s_open_files_are_not_there(self, tmp_path: Path) -> None:
        with open(tmp_path / "secret", "w+") as secret:
            high = fcntl.fcntl(secret, fcntl.F_DUPFD, 60)  # a number the program does not use
            os.set_inheritable(high, True)
            ended = run(f"import os; os.fstat({high})")
            os.close(high)
        assert ended.detail.startswith("OSError: [Errno 9]")

    def test_nothing_outside_is_written_changed_or_removed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = list(sandbox._readable())
        monkeypatch.setattr(sandbox, "_readable", lambda: [*known, str(tmp_path / "readable")])
        for folder in ("readable", "closed"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "file").write_text("as it was")
            (tmp_path / folder / "file").chmod(0o640)
        before = state_of(tmp_path)
        text = f"""
            import os, shutil
            for folder in ({str(tmp_path / "readable")!r}, {str(tmp_path / "closed")!r}, "/tmp"):
                file = folder + "/file"
                for attempt in (
                    lambda: open(file, "w"),
                    lambda: open(file, "a"),
                    lambda: open(folder + "/new", "w"),
                    lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
                    lambda: os.truncate(file, 0),
                    lambda: os.chmod(file, 0o777),
                    lambda: os.chown(file, 1, 1),
                    lambda: os.utime(file, (1, 1)),
                    lambda: os.setxattr(file, "user.x", b"y"),
                    lambda: os.remove(file),
                    lambda: os.rename(file, "mine"),
                    lambda: os.link(file, "mine"),
                    lambda: os.symlink(file, "mine"),
                    lambda: os.mkdir(folder + "/new"),
                    lambda: os.mkfifo(folder + "/new"),
                    lambda: open("own", "w").close() or os.rename("own", folder + "/file"),
                ):
                    try:
                        attempt()
                    except OSError as error:
                        assert error.errno in (1, 2, 13, 18), error
                    else:
                        raise SystemError(file)
            assert open({str(tmp_path / "readable" / "file")!r}).read() == "as it was"
        """
        assert run(text) == Ended("finished", "", "")
        assert state_of(tmp_path) == before

    def test_its_own_folder_takes_flat_files(self) -> None:
        text = """
            import os, tempfile
            with open("a", "w") as file: file.write("one")
            os.rename("a", "b")
            with tempfile.NamedTemporaryFile("w+") as file: file.write("two")
            print(open("b").read(), os.listdir())
            os.mkdir("deep")
        """
        ended = run(text)
        assert ended.output == "one ['b']\n"
        assert_refused(ended)


def state_of(folder: Path) -> list[tuple[str, int, int]]:
    """Name, time of change and mode of all that lies in a folder and below, but for runs/."""
    found = [(str(p), p.stat().st_mtime_ns, p.stat().st_mode) for p in folder.rglob("*")]
    return sorted(row for row in found if "/runs" not in row[0])


def assert_refused_or_missing(ended: Ended, path: str) -> None:
    if os.path.exists(path):  # which says no where the folder may not be looked into
        assert_refused(ended)
    else:
        assert ended.detail.startswith(("PermissionError", "FileNotFoundError"))


class TestLimits:
    def test_an_endless_loop_ends_at_the_limit_of_cpu_seconds(self) -> None:
        ended = run("while True: pass", Limits(cpu_s=1, wall_s=20.0))
        assert (ended.outcome, "CPU" in ended.detail) == ("timeout", True)

    def test_a_loop_that_ignores_every_signal_ends_too(self) -> None:
        text = """
            import signal
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            while True: pass
        """
        assert run(text, Limits(cpu_s=1, wall_s=20.0)).outcome == "timeout"

    @pytest.mark.parametrize(
        "text", ["time.sleep(60)", "signal.pause()", "os.read(os.pipe()[0], 1)"]
    )
    def test_one_that_waits_ends_at_the_wall_clock(self, text: str) -> None:
        ended = run(f"import os, signal, time\n{text}", Limits(wall_s=0.5))
        assert ended == Ended("timeout", "over 0.5 s", "")

    @pytest.mark.parametrize(
        "text", ["'x' * 10**10", "bytearray(10**9)", "[[0] * 10**6 for _ in range(10**6)]"]
    )
    def test_memory_is_bounded(self, text: str) -> None:
        assert run(f"x = {text}").detail.startswith("MemoryError")

    def test_limits_are_not_raised(self) -> None:
        text = """
            import resource
            for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
                assert resource.getrlimit(kind)[1] > 0
                try:
                    resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                except (OSError, ValueError):
                    continue
                raise SystemError(kind)
        """
        assert run(text).outcome == "finished"

    def test_output_is_bounded(self) -> None:
        ended = run("while True: print('x' * 1000)", Limits(file_bytes=50_000))
        assert ended.outcome in ("raised", "died")
        assert len(ended.output) == 50_000

    def test_a_file_is_bounded(self) -> None:
        ended = run("open('a', 'wb').write(bytes(2 << 20))")
        assert ended.detail.startswith("OSError: [Errno 27]")  # file too large
        assert run("open('a', 'wb').truncate(1 << 40)").detail.startswith("OSError: [Errno 27]")

    @pytest.mark.parametrize("size", [0, 1 << 20])
    def test_all_files_together_are_bounded(self, size: int) -> None:
        text = f"import time\nfor n in range(10**9): open(str(n), 'wb').write(bytes({size}))"
        assert run(text, Limits(cpu_s=10, wall_s=20.0)).outcome == "overflow"


class TestReports:
    @pytest.mark.parametrize(
        "attempt",
        [
            """os.write(n, b'["unconfined", "x"]\\n' * 3)""",
            "os.write(n, b'x' * 100_000)",
            "os.close(n)",
        ],
    )
    def test_a_forged_report_harms_the_program_alone(self, attempt: str) -> None:
        text = f"""
            import os
            for n in range(3, 64):
                try: {attempt}
                except OSError: pass
        """
        assert run(text, Limits(wall_s=1.0)).outcome in ("died", "timeout")

    def test_a_machine_that_cannot_confine_runs_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weak = tmp_path / "confined.py"
        source = Path(sandbox.__file__).with_name("confined.py").read_text()
        for broken, reason in (
            ('"libseccomp.so.2")', "apt-get install libseccomp2"),
            ("ctypes.c_size_t(0), 1)", "no Landlock"),
        ):
            other = {'"libseccomp.so.2")': '"libnothing.so")'}.get(broken, "ctypes.c_size_t(0), 7)")
            assert broken in source
            weak.write_text(source.replace(broken, other))
            monkeypatch.setattr(sandbox, "__file__", str(tmp_path / "sandbox.py"))
            with pytest.raises(SandboxUnavailable, match=reason):
                run(f"open({str(tmp_path / 'ran')!r}, 'w')")
            assert not (tmp_path / "ran").exists()

    def test_a_door_that_stays_open_is_noticed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = Path(sandbox.__file__).with_name("confined.py").read_text()
        monkeypatch.setattr(sandbox, "__file__", str(tmp_path / "sandbox.py"))
        for call, reason in (
            ('    close_files(libc, order["readable"], order["work"])\n', "root folder"),
            ("    close_calls(seccomp)\n", "socket can still be opened"),
        ):
            assert call in source
            (tmp_path / "confined.py").write_text(source.replace(call, ""))
            with pytest.raises(SandboxUnavailable, match=reason):
                run("print(1)")

    def test_other_systems_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(SandboxUnavailable, match="judge such tasks on Linux"):
            run("print(1)")


class TestSetting:
    def test_code_is_run_only_where_the_setting_allows_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = get_task("magicoder")
        for off in (None, "", "0"):
            monkeypatch.delenv(settings.RUN_CODE, raising=False)
            if off is not None:
                monkeypatch.setenv(settings.RUN_CODE, off)
            assert scoring.program_runner() is None
            with pytest.raises(MetricUnavailable, match="LORALAND_RUN_CODE=1"):
                scoring.require_gradable(task)
        monkeypatch.setenv(settings.RUN_CODE, "1")
        scoring.require_gradable(task)
        monkeypatch.setenv(settings.RUN_CODE, "yes")
        with pytest.raises(InvalidConfiguration, match="set it to 1"):
            scoring.require_gradable(task)
        scoring.require_gradable(get_task("dates"))  # which runs no programs


@pytest.mark.slow
def test_humaneval_s_own_solutions_pass_164_of_164_and_empty_ones_none(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = real_data / "tasks" / "magicoder" / "humaneval_full.parquet"
    if not full.exists():
        pytest.skip("LORALAND_TEST_DATA has no tasks/magicoder/humaneval_full.parquet")
    place = tmp_path / "data" / "magicoder"
    place.mkdir(parents=True)
    pq.write_table(pq.read_table(full), place / "test.parquet")
    monkeypatch.setenv(settings.DATA, str(tmp_path / "data"))
    task = get_task("magicoder")
    items = load_split(task, "test", limit=None).items()
    assert len(items) == 164
    assert gold_score(task, items, sandbox.judge_program) == 1.0
    for item in items[:20]:
        assert not sandbox.judge_program(program("pass", item)).passed
