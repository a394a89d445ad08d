"""A load of small requests over and over on a number of connections: cheap enough to run beside what it measures."""

import asyncio
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import urlsplit

from zenzefi.errors import JsonObject


@dataclass(slots=True, kw_only=True)
class Load:
    """What came of it."""

    requests: int = 0
    failures: int = 0  # answers whose status was not 2xx
    elapsed_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    first_failure: bytes = b""

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.requests / self.elapsed_s

    def require_success(self, what: str = "requests") -> None:
        """Raise RuntimeError when a request failed: such a load measured something else."""
        if self.failures:
            answer = self.first_failure.decode(errors="replace")
            raise RuntimeError(f"{self.failures} of {self.requests} {what} failed: {answer[:1000]}")


async def send(url: str, *, headers: Mapping[str, str], connections: int, seconds: float) -> Load:
    """GET `url` on each of the connections, one request after another, for as long.

    Raises:
        OSError: a connection was refused or lost.
    """
    return await send_each(url, [get(url, headers=headers)], connections=connections, seconds=seconds)


async def send_each(url: str, requests: Sequence[bytes], *, connections: int, seconds: float) -> Load:
    """Send these requests to the server of `url` over and over, the next one on whichever connection is free.

    Raises:
        OSError: a connection was refused or lost.
    """
    return await send_from(url, cycle(requests), connections=connections, seconds=seconds)


async def send_once(url: str, requests: Sequence[bytes], *, connections: int = 1) -> Load:
    """As ``send_each``, but each request once.

    Raises:
        OSError: a connection was refused or lost.
    """
    return await send_from(url, iter(requests), connections=connections, seconds=math.inf)


async def send_from(url: str, requests: Iterator[bytes], *, connections: int, seconds: float) -> Load:
    """As ``send_each``, but whatever comes next, until there is no more.

    Raises:
        OSError: a connection was refused or lost.
    """
    load = Load()
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(_repeat(load, host, port, requests, until=started + seconds))
    load.elapsed_s = time.perf_counter() - started
    return load


def get(url: str, *, headers: Mapping[str, str]) -> bytes:
    """A GET as it is sent."""
    return request("GET", url, headers=headers)


def request(method: str, url: str, *, headers: Mapping[str, str], body: JsonObject | None = None) -> bytes:
    """A request as it is sent, with a body of JSON if there is any."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    content = b"" if body is None else json.dumps(body).encode()
    described = {} if body is None else {"Content-Type": "application/json"}
    if method not in ("GET", "HEAD"):
        described["Content-Length"] = str(len(content))
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {parts.netloc}",
        *(f"{name}: {value}" for name, value in {**headers, **described}.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def _repeat(load: Load, host: str, port: int, requests: Iterator[bytes], *, until: float) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for number, content in enumerate(requests):
            # One at least, also where the machine stood still until the time was over.
            if (began := time.perf_counter()) >= until and number:
                break
            writer.write(content)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_content_length(head))
            load.latencies_s.append(time.perf_counter() - began)
            load.requests += 1
            if head[9:10] != b"2":
                load.failures += 1
                load.first_failure = load.first_failure or head + body
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("the server closed the connection") from error
    finally:
        writer.close()


def _content_length(head: bytes) -> int:
    found = head.lower().partition(b"\r\ncontent-length:")[2]
    return int(found.partition(b"\r\n")[0]) if found else 0
