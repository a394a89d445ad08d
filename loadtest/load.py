"""A load of one small request over and over on a number of connections: cheap enough to run beside what it measures."""

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(slots=True, kw_only=True)
class Load:
    """What came of it."""

    requests: int = 0
    failures: int = 0  # answers whose status was not 2xx
    elapsed_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.requests / self.elapsed_s


async def send(url: str, *, headers: dict[str, str], connections: int, seconds: float) -> Load:
    """GET `url` on each of the connections, one request after another, for as long.

    Raises:
        OSError: a connection was refused or lost.
    """
    load = Load()
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    lines = [f"GET {urlsplit(url).path} HTTP/1.1", f"Host: {host}:{port}", *(f"{k}: {v}" for k, v in headers.items())]
    request = "\r\n".join([*lines, "", ""]).encode()
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(_repeat(load, host, port, request, until=started + seconds))
    load.elapsed_s = time.perf_counter() - started
    return load


async def _repeat(load: Load, host: str, port: int, request: bytes, *, until: float) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        while (began := time.perf_counter()) < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(_content_length(head))
            load.latencies_s.append(time.perf_counter() - began)
            load.requests += 1
            load.failures += head[9:10] != b"2"
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("the server closed the connection") from error
    finally:
        writer.close()


def _content_length(head: bytes) -> int:
    found = head.lower().partition(b"\r\ncontent-length:")[2]
    return int(found.partition(b"\r\n")[0]) if found else 0
