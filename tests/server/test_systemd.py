"""What the supervisor tells systemd, and the sockets that systemd keeps for it."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.server.supervised import ROOT, Load, supervised
from tests.support.servers import SECRET_KEY

_MESSAGE_TIMEOUT_S = 30.0
# Far from what the interpreter itself opens.
_OUT_OF_THE_WAY = 100


class _Listener:
    """systemd's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.address)

    async def hear(self, *, ignoring: str = "WATCHDOG=1") -> str:
        async with asyncio.timeout(_MESSAGE_TIMEOUT_S):
            while True:
                message = (await asyncio.get_running_loop().sock_recv(self._socket, 4096)).decode()
                if message != ignoring:
                    return message

    def close(self) -> None:
        self._socket.close()


async def test_systemd_is_told_how_the_service_stands(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    with contextlib.closing(_Listener(tmp_path / "notify")) as systemd:
        environ = {
            "NOTIFY_SOCKET": systemd.address,
            "WATCHDOG_USEC": "1000000",
            "BROKEN_WHEN_EXISTS": str(broken),
        }
        async with supervised(2, environ=environ) as running:
            assert await systemd.hear() == "READY=1"
            assert running.count("serving") <= 1, "not before all of them serve"
            for _ in range(3):
                assert await systemd.hear(ignoring="") == "WATCHDOG=1"
            for child in running.children():
                own = Path(f"/proc/{child}/environ").read_bytes()
                assert b"NOTIFY_SOCKET" not in own, "it would speak in the supervisor's name"
            running.signal(signal.SIGHUP)
            assert (await systemd.hear()).startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert await systemd.hear() == "READY=1"
            broken.touch()
            running.signal(signal.SIGHUP)
            assert (await systemd.hear()).startswith("RELOADING=1")
            assert await systemd.hear() == "READY=1", "the old processes keep serving"
            running.signal(signal.SIGTERM)
            assert await systemd.hear() == "STOPPING=1"
            assert await running.ended() == 0


async def test_a_systemd_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    async with supervised(1, environ={"NOTIFY_SOCKET": str(tmp_path / "nobody")}) as running:
        await running.logged("serving")
        running.signal(signal.SIGTERM)
        assert await running.ended() == 0


@contextlib.asynccontextmanager
async def _activated(public: socket.socket, internal: socket.socket) -> AsyncIterator[asyncio.subprocess.Process]:
    """The supervisor, started the way systemd starts a service that has sockets."""
    sources = [fcntl.fcntl(each.fileno(), fcntl.F_DUPFD, _OUT_OF_THE_WAY) for each in (internal, public)]

    def place() -> None:
        for number, source in enumerate(sources, start=3):
            os.dup2(source, number)

    process = await asyncio.create_subprocess_exec(
        # The process id is known only once it runs.
        *("/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh"),
        *(sys.executable, "-m", "tests.server.small_supervisor", "2"),
        cwd=ROOT,
        env={
            **os.environ,
            "ENVIRONMENT": "development",
            "SECRET_KEY": SECRET_KEY,
            "PORT": "1",  # nobody listens there, which would take root
            "LISTEN_FDS": "2",
            "LISTEN_FDNAMES": "internal:public",
        },
        stderr=subprocess.DEVNULL,
        preexec_fn=place,
        close_fds=False,
    )
    for source in sources:
        os.close(source)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_restarts_refuse_nobody_while_systemd_keeps_the_sockets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as public, socket.create_server(("127.0.0.1", 0)) as internal:
        # Clients wait for as long as a restart takes, however busy the machine is.
        load = Load(public.getsockname()[1], patience_s=60)
        loading = asyncio.create_task(load.run(keeping=0, fresh=4))
        answered = 0
        for _ in range(3):
            seen = set(load.answered_by)
            async with _activated(public, internal) as process:
                async with asyncio.timeout(60):
                    while load.answered < answered + 100:  # noqa: ASYNC110  until these processes have served a good part
                        await asyncio.sleep(0.02)
                answered = load.answered
                process.terminate()
                assert await process.wait() == 0
            assert load.answered_by - seen, "each restart brought new processes that served"
        load.is_over = True
        async with _activated(public, internal):  # for those that wait now
            await loading
    assert load.failures == []
