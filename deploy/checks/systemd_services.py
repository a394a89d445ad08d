"""The units' commands, run by hand with what their units give them, on real servers.

There is no systemd in a container, so this check is it: it reads the environment and the credentials out of the units,
keeps the socket, listens to what the service says, forbids the system calls that the unit forbids, and signals.
"""

import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.checks.failures import CheckFailed, require
from deploy.checks.running import run
from deploy.checks.systemd import allowed_calls
from deploy.checks.systemd_machine import Machine, make_machine
from deploy.checks.units import PYTHON, SYSTEMD, Unit, read_units, seconds_of
from zenzefi.devstack.process import ChildProcess, Command

_CONFINED: Final = Path(__file__).with_name("confined.py")
_HEAR_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.1
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Of an installation that verifies its own backups, has one plain bucket, and has no night behind it.
_EXPECTED_WARNINGS: Final = {"backup key", "s3 safety", "ledger", "audit log"}
# What this machine is like is not the product's doing.
_OF_THE_MACHINE: Final = ("disk ", "open files", "clock")

# Does what zenzefi.sh asks of it: reads the file of settings, hands out the credentials, and becomes the command.
_SYSTEMD_RUN: Final = """#!/bin/sh
set -eu
CREDENTIALS_DIRECTORY=$(mktemp -d "$(dirname "$0")/credentials.XXXXXX")
export CREDENTIALS_DIRECTORY
while :; do
    case $1 in
    --property=LoadCredential=*)
        credential=${1#--property=LoadCredential=}
        cp "${credential#*:}" "$CREDENTIALS_DIRECTORY/${credential%%:*}"
        ;;
    --property=EnvironmentFile=*)
        set -a
        . "${1#--property=EnvironmentFile=}"
        set +a
        ;;
    --*) ;;
    *) break ;;
    esac
    shift
done
exec "$@"
"""


def check_services() -> None:
    """Raise CheckFailed with what a unit gets, says or does wrong."""
    units = read_units()
    with make_machine() as machine:
        runner = Runner(machine=machine, units=units)
        runner.finish("zenzefi-migrate.service")
        runner.create_superuser()
        workers = [runner.start(name) for name in ("zenzefi-worker.service", "zenzefi-worker-heavy.service")]
        front = runner.start("zenzefi-nginx.service")
        with runner.web() as web:
            _check_web(web)
            runner.finish("zenzefi-backup.service")
            _check_doctor(runner)
        for started in (front, *workers):
            runner.stop(started)


@dataclass
class Runner:
    """systemd, as far as these units need it."""

    machine: Machine
    units: dict[str, Unit]

    def finish(self, name: str) -> None:
        """Run each command of a oneshot unit to its end; raises CheckFailed."""
        unit = self.units[name]
        for words in unit.commands():
            run(self.confined(unit, words), environment=self.machine.environment(unit), working_directory=Path("/"))

    def start(
        self, name: str, *, listener: socket.socket | None = None, notify: str = ""
    ) -> "tuple[Unit, ChildProcess]":
        """Start the command of a unit."""
        unit = self.units[name]
        (words,) = unit.commands()
        environment = self.machine.environment(unit)
        if notify:
            environment |= {
                "NOTIFY_SOCKET": notify,
                "WATCHDOG_USEC": str(int(seconds_of(unit.last("WatchdogSec")) * 1e6)),
            }
        if listener is not None:
            name_of_it = self.units["zenzefi-web.socket"].last("FileDescriptorName")
            environment |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": name_of_it}
        child = ChildProcess(
            Command(
                name=unit.name,
                arguments=self.confined(unit, words, listener),
                log_file=self.machine.folder / f"{unit.name}.log",
                environment=environment,
                working_directory=Path(unit.last("WorkingDirectory")),
                inherited=() if listener is None else (listener.fileno(),),
                stop_signal=signal.Signals[unit.last("KillSignal") or "SIGTERM"],
            )
        )
        child.start()
        self.machine.stack.callback(child.stop, timeout_s=3.0)
        return unit, child

    def stop(self, started: "tuple[Unit, ChildProcess]") -> None:
        """End it as systemd would; raises CheckFailed."""
        started[1].request_stop()
        self.await_end(started)

    def await_end(self, started: "tuple[Unit, ChildProcess]") -> None:
        """Wait as long as the unit says; raises CheckFailed if it would have to be killed, or ends badly."""
        unit, child = started
        deadline = time.monotonic() + seconds_of(unit.last("TimeoutStopSec"))
        while child.returncode is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if child.returncode != 0:
            raise CheckFailed(
                f"{unit.name} ended with {child.returncode} when it was to stop:\n{child.log_text()[-2000:]}"
            )

    @contextmanager
    def web(self) -> Iterator["Web"]:
        """zenzefi-web.socket and zenzefi-web.service, ready."""
        with socket.create_server(("127.0.0.1", self.machine.port)) as listener, _Notified(self.machine.folder) as news:
            web = Web(runner=self, listener=listener, news=news)
            web.start()
            yield web
            self.stop(web.started)

    def create_superuser(self) -> None:
        """As the guide has it, by zenzefi.sh."""
        script = (SYSTEMD / "zenzefi.sh").read_text(encoding="utf-8")
        here = script.replace("/etc/zenzefi", str(self.machine.folder)).replace(PYTHON, sys.executable)
        stand_in = self.machine.folder / "bin/systemd-run"
        stand_in.parent.mkdir()
        stand_in.write_text(_SYSTEMD_RUN)
        stand_in.chmod(0o755)
        options = ["--email", "admin@example.com", "--username", "admin", "--password-stdin"]
        run(
            ["sh", "-c", here, "zenzefi", "create-superuser", *options],
            environment={"PATH": f"{stand_in.parent}:{os.environ['PATH']}"},
            input_text="a password of the check\n",
        )

    def confined(self, unit: Unit, words: list[str], listener: socket.socket | None = None) -> list[str | Path]:
        """A command of the unit, under the unit's filter, from this checkout."""
        calls = allowed_calls(self.machine.folder, unit)
        listen = () if listener is None else ("--listen", str(listener.fileno()))
        here = [self.machine.here(word) for word in words]
        return [sys.executable, "-I", _CONFINED, "--calls", calls, *listen, "--", *here]


class _Notified:
    """The socket on which the service says how it stands."""

    def __init__(self, folder: Path) -> None:
        self.address = f"{folder}/notify"
        Path(self.address).unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(_HEAR_TIMEOUT_S)

    def __enter__(self) -> "_Notified":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def hear(self, beginning: str) -> None:
        """Wait for a message that begins so; raises CheckFailed when another one comes, but for the watchdog's."""
        try:
            while (message := self._socket.recv(4096).decode()) == "WATCHDOG=1":
                pass
        except TimeoutError:
            raise CheckFailed(f"The service did not say {beginning} in {_HEAR_TIMEOUT_S:g} s.") from None
        if not message.startswith(beginning):
            raise CheckFailed(f"The service said {message!r}, and not {beginning}.")


@dataclass
class Web:
    """The running web service."""

    runner: Runner
    listener: socket.socket
    news: _Notified

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        self.started = self.runner.start("zenzefi-web.service", listener=self.listener, notify=self.news.address)
        try:
            self.news.hear("READY=1")
        except CheckFailed as failure:
            raise CheckFailed(f"{failure} Its log:\n{self.started[1].log_text()[-4000:]}") from None

    @property
    def pid(self) -> int:
        """MAINPID."""
        return self.started[1].pid

    def ask(self, path: str = "/health") -> int:
        """The status of an answer; whoever has to wait for a restart does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.runner.machine.port, timeout=_HEAR_TIMEOUT_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()


def _check_web(web: Web) -> None:
    if web.ask() != http.HTTPStatus.OK:
        raise CheckFailed("zenzefi-web.service is ready, and /health is not 200.")
    _reload(web)
    web.news.hear("RELOADING=1")
    web.news.hear("READY=1")
    half = _begin_request(web.runner.machine.port)
    _await_acceptance(half)
    web.started[1].request_stop()
    web.news.hear("STOPPING=1")
    _end_request(half)
    web.runner.await_end(web.started)
    # It is away, and the socket is not: this client waits for the next one.
    waiting = _begin_request(web.runner.machine.port)
    web.start()
    _end_request(waiting)


def _reload(web: Web) -> None:
    words = [word.replace("$MAINPID", str(web.pid)) for word in shlex.split(web.started[0].last("ExecReload"))]
    run(words)


def _begin_request(port: int) -> socket.socket:
    """A request whose body is still on its way."""
    client = socket.create_connection(("127.0.0.1", port), timeout=_HEAR_TIMEOUT_S)
    client.sendall(
        b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    return client


def _await_acceptance(client: socket.socket) -> None:
    """Return once the service has the request, which the socket alone would keep for the next one."""
    answer = client.recv(len(_CONTINUE), socket.MSG_WAITALL)
    if answer != _CONTINUE:
        raise CheckFailed(f"A request that asks whether it may go on was answered with {answer!r}.")


def _end_request(client: socket.socket) -> None:
    with client:
        client.sendall(b"{}")
        answer = client.recv(4096).removeprefix(_CONTINUE) or client.recv(4096)
    if not answer.startswith(b"HTTP/1.1 422 "):
        raise CheckFailed(f"A request that had begun before the stop was answered with {answer[:80]!r}.")


def _check_doctor(runner: Runner) -> None:
    """Everything runs, so nothing may fail; what the workers do takes them a moment."""
    deadline = time.monotonic() + _HEAR_TIMEOUT_S
    while findings := _examine(runner):
        if time.monotonic() > deadline:
            require(findings, what="zenzefi-doctor.service")
        time.sleep(1)


def _examine(runner: Runner) -> list[str]:
    unit = runner.units["zenzefi-doctor.service"]
    (words,) = unit.commands()
    finished = subprocess.run(  # noqa: S603  the unit's command
        runner.confined(unit, words),
        env=runner.machine.environment(unit),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=_HEAR_TIMEOUT_S,
        check=False,
    )
    if finished.returncode not in (0, 1, int(unit.last("SuccessExitStatus"))):
        return [f"exit code {finished.returncode}: {finished.stderr}"]
    lines = [line.split("\t") for line in finished.stdout.splitlines()]
    return [
        f"{verdict} {name}: {detail}"
        for verdict, name, detail, _ in lines
        if verdict != "ok"
        and not (verdict == "warn" and name in _EXPECTED_WARNINGS)
        and not name.startswith(_OF_THE_MACHINE)
    ]
