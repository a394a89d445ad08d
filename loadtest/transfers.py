"""One large body in either direction, as fast as a blocking socket takes it."""

import socket
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

_PIECE_BYTES = 1024 * 1024
_TIMEOUT_S = 60.0


def download_s(url: str, *, headers: Mapping[str, str], size: int) -> float:
    """The seconds that a GET of `size` bytes takes. Raises RuntimeError when it is answered otherwise."""
    started = time.perf_counter()
    with _ask("GET", url, headers) as connection:
        left = size - len(_require_success(connection))
        buffer = bytearray(_PIECE_BYTES)
        while left > 0:
            count = connection.recv_into(buffer)
            if not count:
                raise RuntimeError(f"the answer broke off {left} bytes before its end")
            left -= count
    return time.perf_counter() - started


def upload_s(url: str, *, headers: Mapping[str, str], size: int) -> float:
    """The seconds that a PUT of `size` bytes and its answer take. Raises RuntimeError when it is refused."""
    started = time.perf_counter()
    with _ask("PUT", url, {**headers, "Content-Length": str(size)}) as connection:
        piece = memoryview(bytes(_PIECE_BYTES))
        for sent in range(0, size, _PIECE_BYTES):
            connection.sendall(piece[: size - sent])
        _require_success(connection)
    return time.perf_counter() - started


def _ask(method: str, url: str, headers: Mapping[str, str]) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=_TIMEOUT_S)
    lines = [f"{method} {parts.path} HTTP/1.1", f"Host: {parts.netloc}", *(f"{k}: {v}" for k, v in headers.items())]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def _require_success(connection: socket.socket) -> bytes:
    """Read the head of the answer; returns what came of its body with it."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = connection.recv(_PIECE_BYTES)
        if not piece:
            raise RuntimeError("the connection was closed without an answer")
        answer += piece
    if answer[9:10] != b"2":
        raise RuntimeError(f"the request failed: {answer[:1000].decode(errors='replace')}")
    return answer.partition(b"\r\n\r\n")[2]
