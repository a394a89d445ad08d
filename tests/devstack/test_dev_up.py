"""The whole stack as a newcomer runs it: two commands, one printed curl, Ctrl-C."""

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.devstack.processes import (
    ROOT,
    descendants,
    expect_nothing_left,
    kill_and_expect_nothing_left,
    still_there,
    wait_until,
)
from zenzefi.devstack.ports import LOOPBACK, find_free_port

DEV_UP = (sys.executable, "-m", "zenzefi", "dev", "up")
READY_WITHIN_S = 60.0  # 5 s on an idle machine; the other tests run beside this one
# Its three steps are bounded, to 5 s in all; what is begun in each takes the longer the busier the machine is. What is
# not bounded takes half a minute (a drain) or minutes (the stream).
STOPPED_WITHIN_S = 10.0

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def _hangups_count() -> Iterator[None]:
    """The tests may run under nohup: then SIGHUP is ignored here, and would be by all that is started here."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A running `zenzefi dev up`, and what it has printed."""

    process: subprocess.Popen[str]
    output_file: Path

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.output
            return "Ctrl-C stops everything." in self.output

        wait_until(is_ready, timeout_s=READY_WITHIN_S, what="the stack says that it is ready")

    def printed(self, pattern: str) -> str:
        match = re.search(pattern, self.output)
        assert match, self.output
        return match.group(1)

    def curl(self) -> "Answer":
        """Do what the printed curl line says."""
        return send(self.printed(r"(?m)^\s*(curl .*)$"))

    def stop(self, number: signal.Signals, *, within_s: float = STOPPED_WITHIN_S) -> int:
        """Send this signal to it alone, and return the exit code."""
        self.process.send_signal(number)
        return self.ended(within_s=within_s)

    def ended(self, *, within_s: float) -> int:
        """Wait for its end, and return the exit code."""
        wait_until(lambda: self.process.poll() is not None, timeout_s=within_s, what="the stack ends")
        return self.process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def send(command: str) -> Answer:
    """Send the request that a curl line of `-H` and one URL describes."""
    program, *arguments = shlex.split(command)
    assert program == "curl"
    headers, urls = {}, []
    while arguments:
        argument = arguments.pop(0)
        if argument == "-H":
            name, _, value = arguments.pop(0).partition(": ")
            headers[name] = value
        else:
            urls.append(argument)
    (url,) = urls
    with connect(url) as connection:
        parts = urlsplit(url)
        connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=headers)
        response = connection.getresponse()
        return Answer(status=response.status, headers=dict(response.getheaders()), body=response.read())


def connect(url: str) -> contextlib.closing[http.client.HTTPConnection]:
    return contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=20))


def environment(home: Path, **more: str) -> dict[str, str]:
    """As little as a newcomer has, so that servers named for the other tests are not used here."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "ZENZEFI_HOME": str(home),
        "PORT": str(find_free_port()),
        "INTERNAL_PORT": str(find_free_port()),
        "PROCESSES": "2",
        **more,
    }


@contextlib.contextmanager
def run_stack(env: Mapping[str, str], output_file: Path, *, command: Sequence[str] = DEV_UP) -> Iterator[Stack]:
    """Run `zenzefi dev up`; what is still running at the end is killed, and its children with it."""
    with (
        output_file.open("w") as output,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield Stack(process=process, output_file=output_file)
        finally:
            process.kill()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that the first start makes."""
    return tmp_path / "home"


@contextlib.contextmanager
def open_event_stream(stack: Stack) -> Iterator[None]:
    """Hold a stream open through the gateway that would go on for minutes."""
    *command, url = shlex.split(stack.printed(r"(?m)^\s*(curl .*)$"))
    headers = dict(argument.split(": ", 1) for argument in command[2::2])
    with connect(url) as connection:
        path = "/api/v1/proxy/events?count=1000&interval=0.5"
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        assert response.readline().startswith(b"id: 1")
        yield


def test_it_runs_and_stops_as_the_readme_says(home: Path, tmp_path: Path) -> None:
    env = environment(home)
    with run_stack(env, tmp_path / "first") as stack:
        stack.wait_until_ready()
        answer = stack.curl()
        assert answer.status == 200, answer.body
        seen = json.loads(answer.body)
        assert (seen["method"], seen["path"], seen["query"]) == ("GET", "/hello", "from=curl")
        assert "X-Access-Token" not in {name for name, _ in seen["headers"]}
        base_url = stack.printed(r"Web +(\S+)")
        for path in ("/docs", "/openapi.json", "/health"):
            assert send(f"curl '{base_url}{path}'").status == 200, path
        assert "\x1b" not in stack.output, "a pipe gets plain text"

        with run_stack(env, tmp_path / "second") as second:
            assert second.process.wait(60) == 1
            assert "Another stack runs in" in second.output

        below = descendants(stack.process.pid)
        with open_event_stream(stack):
            assert stack.stop(signal.SIGTERM) == 0
        expect_nothing_left(below)
        first_output = stack.output

    with run_stack(env, tmp_path / "third") as stack:
        stack.wait_until_ready()
        for pattern in (r"password (\S+)", r"(znz_\w+)"):
            assert stack.printed(pattern) in first_output, "the state is found again"
        assert stack.curl().status == 200
        below = descendants(stack.process.pid)
        assert stack.stop(signal.SIGINT) == 0
        expect_nothing_left(below)


def test_the_admins_login_is_the_printed_one(home: Path, tmp_path: Path) -> None:
    with run_stack(environment(home), tmp_path / "output") as stack:
        stack.wait_until_ready()
        email, password = stack.printed(r"Admin +(\S+)"), stack.printed(r"password (\S+)")
        with connect(stack.printed(r"Web +(\S+)")) as connection:
            body = json.dumps({"email": email, "password": password})
            connection.request("POST", "/api/v1/auth/login", body, {"Content-Type": "application/json"})
            login = json.loads(connection.getresponse().read())
            connection.request("GET", "/api/v1/users/me", headers={"Authorization": f"Bearer {login['access_token']}"})
            assert json.loads(connection.getresponse().read())["is_superuser"] is True

        # The death of one process ends all of them, and is told.
        below = descendants(stack.process.pid)
        victim = next(process for process in below if "valkey-server" in process.name())
        victim.kill()
        assert stack.ended(within_s=STOPPED_WITHIN_S) == 1
        assert "Valkey was ended by SIGKILL. The end of" in stack.output
        expect_nothing_left(below)


def test_a_demo_token_that_is_refused_is_replaced(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    stale = "znz_" + "A" * 49
    (home / "state.json").write_text(json.dumps({"demo_token": stale}))
    with run_stack(environment(home), tmp_path / "output") as stack:
        stack.wait_until_ready()
        assert stack.printed(r"(znz_\w+)") != stale
        assert stack.curl().status == 200
        kill_and_expect_nothing_left(stack.process.pid, wait=stack.process.wait)

    # A stack that was killed leaves a folder that the next one can use at once.
    with run_stack(environment(home), tmp_path / "again") as stack:
        stack.wait_until_ready()
        assert stack.curl().status == 200
        below = descendants(stack.process.pid)
        # All of them hang: they are asked first, 4.4 s in all, and then not any more.
        for child in psutil.Process(stack.process.pid).children():
            child.suspend()
        assert stack.stop(signal.SIGHUP, within_s=2 * STOPPED_WITHIN_S) == 0
        expect_nothing_left(below)  # what PostgreSQL left behind notices


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda make: os.killpg(make, signal.SIGINT), id="Ctrl-C, which the terminal sends to all of them"),
        pytest.param(lambda make: os.kill(make, signal.SIGTERM), id="SIGTERM for make"),
        pytest.param(lambda make: os.kill(make, signal.SIGKILL), id="kill -9 of make"),
    ],
)
def test_make_run_ends_with_all_that_it_started(home: Path, tmp_path: Path, end: Callable[[int], None]) -> None:
    make = ("make", "run", f"BIN={Path(sys.executable).parent}", "--assume-old=.venv/.installed")
    with run_stack(environment(home), tmp_path / "output", command=make) as stack:
        stack.wait_until_ready()
        below = descendants(stack.process.pid)
        end(stack.process.pid)
        wait_until(
            lambda: stack.process.poll() is not None and not still_there(below),
            timeout_s=STOPPED_WITHIN_S,
            what="make and everything below it ends",
        )
        assert "zenzefi has stopped." in stack.output
        assert "Traceback" not in stack.output


def test_a_signal_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    with run_stack(environment(tmp_path / "home"), tmp_path / "output") as stack:
        postgres_log = tmp_path / "home" / "logs" / "postgres.log"
        wait_until(postgres_log.exists, timeout_s=30, what="PostgreSQL is being started")
        below = descendants(stack.process.pid)
        assert stack.stop(signal.SIGTERM) == 0
        expect_nothing_left(below)


@pytest.mark.parametrize("name", ["PORT", "INTERNAL_PORT"])
def test_a_port_in_use_names_the_variable_that_changes_it(tmp_path: Path, name: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        env = environment(tmp_path / "home", **{name: str(port)})
        with run_stack(env, tmp_path / "output") as stack:
            assert stack.process.wait(60) == 1
            assert f"Port {port} of {LOOPBACK} is in use" in stack.output
            assert f"make run {name}=" in stack.output


def test_a_broken_state_folder_names_the_fix(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "state.json").write_text("{")
    with run_stack(environment(home), tmp_path / "output") as stack:
        assert stack.process.wait(60) == 1
        assert f"remove the folder {home} to begin anew" in stack.output
        assert "Traceback" not in stack.output
