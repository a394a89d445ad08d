"""Accepts connections from a listening socket that several processes share, so that each process gets its share.

uvloop by itself takes all that wait: of a burst of 64 connections one of two processes got all 64, and with keep-alive
it kept them. Here a process that has taken a few looks away for a millisecond, in which the others, woken by the same
burst, take some.
"""

import asyncio
import errno
import socket

import structlog
from aiohttp import web

from zenzefi.server.listening import BACKLOG

# Out of descriptors or memory: an immediate retry would only spin.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SHORTAGE_PAUSE_S = 0.5

# 4,000 connections a second and process, about as many as it could serve one request each.
_AT_ONCE = 4
_LOOK_AWAY_S = 0.001

log = structlog.get_logger(__name__)


class SharedSite(web.BaseSite):
    """Serves one listening socket, which stays open when the site stops."""

    def __init__(self, runner: web.BaseRunner, listener: socket.socket) -> None:
        super().__init__(runner)
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._accepted: set[asyncio.Task[object]] = set()
        self._taken = 0
        self._pause: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """Where it listens."""
        return str(self._listener.getsockname())

    async def start(self) -> None:
        """Accept from now on.

        Not before: a connection that waited for the process to start would have found another instance meanwhile.
        """
        await super().start()
        self._listener.listen(BACKLOG)
        self._resume()

    async def stop(self) -> None:
        """Accept no more; connections that were accepted are still handed to the server."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()
        await super().stop()
        await asyncio.gather(*self._accepted, return_exceptions=True)

    def _resume(self) -> None:
        self._taken, self._pause = 0, None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the client has gone already
        except OSError as error:
            if error.errno == errno.EINVAL:  # it listens no more: OwnListener.refuse
                self._loop.remove_reader(self._listener)
                return
            if error.errno not in _SHORTAGES:
                raise
            log.error("accept_failed", reason=error.strerror)  # noqa: TRY400  the reason says all
            self._look_away(_SHORTAGE_PAUSE_S)
            return
        connection.setblocking(False)  # noqa: FBT003  the socket module's own way
        server = self._runner.server
        assert server is not None
        task = self._loop.create_task(self._loop.connect_accepted_socket(server, connection))
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)
        self._taken += 1
        if self._taken >= _AT_ONCE:
            self._look_away(_LOOK_AWAY_S)

    def _look_away(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, self._resume)
