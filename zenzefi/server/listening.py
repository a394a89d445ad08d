"""Binds the sockets that all web processes share and listen on."""

import contextlib
import errno
import socket
import struct
import time

from zenzefi.server.errors import ServerError

# Connections that wait while every process is busy or restarting; the kernel caps it at net.core.somaxconn.
BACKLOG = 2048
# While new ones come, the processes take those that wait within milliseconds; a process that hangs takes none.
_QUEUE_TIMEOUT_S = 0.5
_QUEUE_POLL_S = 0.001
# struct tcp_info (linux/tcp.h): eight bytes, then rto, ato, snd_mss, rcv_mss, and what is the length of the queue of a
# socket that listens.
_TCP_INFO_QUEUE = struct.Struct("=24xI")


class OwnListener(socket.socket):
    """A listening socket that ends with this program; systemd's goes on."""

    def refuse(self) -> None:
        """Have new connections refused at once, so that a proxy asks the next instance instead of waiting for this.

        Call it while the processes still accept. Those that wait to be accepted would be reset, and a proxy that has
        sent a POST may not repeat it: the moment to refuse is when nobody waits.
        """
        deadline = time.monotonic() + _QUEUE_TIMEOUT_S
        while self._queue_length() and time.monotonic() < deadline:
            time.sleep(_QUEUE_POLL_S)
        with contextlib.suppress(OSError):  # nobody listened yet
            self.shutdown(socket.SHUT_RD)

    def _queue_length(self) -> int:
        information = self.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_QUEUE.size)
        return int(_TCP_INFO_QUEUE.unpack(information)[0])


def listen(host: str, port: int, *, variables: tuple[str, str]) -> OwnListener:
    """Take a TCP address; `variables` are the settings that name the host and the port. Port 0 takes a free one.

    Connections are refused until the first process that serves it listens: see SharedSite.start.

    Raises:
        ServerError: the address cannot be had; the message says what to do.
    """
    host_variable, port_variable = variables
    try:
        ((family, _, _, _, address), *_) = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ServerError(f"{host_variable}={host} is no address of a network interface: {error.strerror}.") from None
    listener = OwnListener(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ServerError(_why(error, host, port, host_variable, port_variable)) from None
    listener.settimeout(0)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds the socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  to be shown, not to be bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _why(error: OSError, host: str, port: int, host_variable: str, port_variable: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"Port {port} of {host} is in use by another program. Stop that program (`ss -ltnp 'sport = :{port}'` "
                f"shows it), or set {port_variable} to a free port."
            )
        case errno.EACCES:
            return f"Port {port} is reserved for root. Set {port_variable} to a port from 1024 up."
        case errno.EADDRNOTAVAIL:
            return f"{host_variable}={host} is not an address of this machine. Set it to one that is, or to 0.0.0.0."
    return f"Cannot listen on {host} port {port}: {error.strerror}. Check {host_variable} and {port_variable}."
