"""Children: their logs, their end, and the ways to end them."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.devstack.processes import wait_until
from zenzefi.devstack.errors import ServerDied, StateBroken
from zenzefi.devstack.process import ChildProcess, Command, wait_for_predecessor

_STUBBORN = (
    "import signal,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)"
)
_PARENT = "import subprocess,sys,time\nprint(subprocess.Popen(['/bin/sleep','60']).pid, flush=True)\ntime.sleep(60)"


def _command(directory: Path, program: str, **changes: object) -> Command:
    arguments: dict[str, object] = {
        "name": "a child",
        "arguments": [sys.executable, "-c", program],
        "log_file": directory / "child.log",
        "environment": {"PATH": "/usr/bin:/bin"},
        "working_directory": directory,
        **changes,
    }
    return Command(**arguments)  # type: ignore[arg-type]


@pytest.fixture
def children() -> Iterator[list[ChildProcess]]:
    """Children that the test started; those still running are stopped."""
    started: list[ChildProcess] = []
    yield started
    for child in started:
        child.stop(timeout_s=0)


def _runs(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _start(children: list[ChildProcess], command: Command) -> ChildProcess:
    child = ChildProcess(command)
    children.append(child)
    child.start()
    return child


def test_a_child_that_dies_is_told_with_its_exit_code_and_the_end_of_its_log(tmp_path: Path) -> None:
    program = "print('an old line\\n' * 50 + 'the last words')\nraise SystemExit(3)"
    with pytest.raises(ServerDied) as caught:
        ChildProcess(_command(tmp_path, program)).run(timeout_s=60)
    message = str(caught.value)
    assert "a child ended with exit code 3" in message
    assert str(tmp_path / "child.log") in message
    assert message.endswith("the last words")
    assert message.count("an old line") < 15


def test_only_what_this_start_wrote_is_told(tmp_path: Path) -> None:
    (tmp_path / "child.log").write_text("from an earlier run\n")
    with pytest.raises(ServerDied) as caught:
        ChildProcess(_command(tmp_path, "raise SystemExit('of this run')")).run(timeout_s=60)
    assert "of this run" in str(caught.value)
    assert "from an earlier run" not in str(caught.value)


def test_a_child_that_never_gets_ready_is_stopped_and_told(tmp_path: Path, children: list[ChildProcess]) -> None:
    child = _start(children, _command(tmp_path, "import time\nprint('thinking', flush=True)\ntime.sleep(60)"))
    with pytest.raises(ServerDied, match=r"not ready within 0\.3 s"):
        child.wait_until(lambda: False, timeout_s=0.3)
    assert child.returncode is not None


def test_a_child_that_ignores_the_request_to_stop_is_killed_in_time(
    tmp_path: Path, children: list[ChildProcess]
) -> None:
    child = _start(children, _command(tmp_path, _STUBBORN))
    wait_until(lambda: "ready" in child.log_text(), timeout_s=60, what="the child runs")
    began = time.monotonic()
    child.stop(timeout_s=0.3)
    assert time.monotonic() - began < 20, "it would have run for a minute"
    assert child.returncode == -signal.SIGKILL


def test_what_a_child_started_itself_goes_with_it(tmp_path: Path, children: list[ChildProcess]) -> None:
    child = _start(children, _command(tmp_path, _PARENT))
    wait_until(lambda: child.log_text().endswith("\n"), timeout_s=60, what="the grandchild runs")
    grandchild = int(child.log_text())
    child.stop()
    wait_until(lambda: not _runs(grandchild), timeout_s=60, what="the grandchild ends")


def test_a_child_may_not_be_started_from_a_thread_that_could_end_before_the_process(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            ChildProcess(_command(tmp_path, "pass")).start()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught)


def test_standard_input_reaches_the_child(tmp_path: Path) -> None:
    command = _command(tmp_path, "print(input().upper())", standard_input=b"said quietly\n")
    ChildProcess(command).run(timeout_s=60)
    assert (tmp_path / "child.log").read_text() == "SAID QUIETLY\n"


def test_a_successor_waits_until_the_last_process_of_its_predecessor_is_gone(
    tmp_path: Path, children: list[ChildProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_file = tmp_path / "lock"
    child = _start(children, _command(tmp_path, "import time\ntime.sleep(60)", lock_file=lock_file))
    monkeypatch.setattr("zenzefi.devstack.process._PREDECESSOR_WAIT_S", 0.2)
    with pytest.raises(StateBroken, match="a child of an earlier run still uses"):
        wait_for_predecessor(lock_file, owner="a child")
    child.stop()
    wait_for_predecessor(lock_file, owner="a child")


def test_logs_are_private(tmp_path: Path) -> None:
    ChildProcess(_command(tmp_path, "print('a secret')")).run(timeout_s=60)
    assert (tmp_path / "child.log").stat().st_mode & 0o777 == 0o600
