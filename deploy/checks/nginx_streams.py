"""Whether streams pass nginx as they come: 1 GiB each way, the first bytes before the last exist, nothing kept here."""

import asyncio
import contextlib
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Final

import aiohttp

from deploy.checks import debian
from deploy.checks.failures import CheckFailed, require
from deploy.checks.nginx_servers import SERVER_NAME, Nginx
from deploy.checks.nginx_upstream import BLOCK, FIRST_BYTES, STREAM_BYTES, Upstream
from zenzefi.devstack.ports import LOOPBACK

_MAX_GROWTH_BYTES: Final = 32 * 1024**2
_STREAM_TIMEOUT_S: Final = 240.0  # ten seconds on an idle machine
_FIRST_TIMEOUT_S: Final = 60.0
_LOOK_INTERVAL_S: Final = 0.1


async def check_streams(nginx: Nginx, upstream: Upstream, holder: Mapping[str, str], web: list[int]) -> None:
    """Raise CheckFailed when nginx, or one of the processes `web`, holds a stream back or keeps much of it."""
    pids = [*nginx.processes(), *web]
    for name, stream in {"download": _download, "upload": _upload}.items():
        for version in ("--http2", "--http1.1"):
            # The whole of it by HTTP/2; that HTTP/1.1 does not hold back either is seen by the first bytes.
            size = STREAM_BYTES if version == "--http2" else 8 * 1024**2
            async with _watch(nginx, pids, what=f"{name} {version[2:]}"):
                started = time.monotonic()
                async with asyncio.timeout(_STREAM_TIMEOUT_S):
                    await stream(nginx, upstream, holder, version, size)
                took_s = time.monotonic() - started
            if size == STREAM_BYTES:
                print(f"  {name} of 1 GiB by {version[2:]}: {took_s:.1f} s")
    await _exchange_messages(nginx, holder)


async def _curl(nginx: Nginx, holder: Mapping[str, str], path: str, *options: str) -> Process:
    headers = [part for name, value in holder.items() for part in ("--header", f"{name}: {value}")]
    target = f"{nginx.url}/api/v1/proxy{path}"
    return await asyncio.create_subprocess_exec(
        debian.ensure("curl", binary="curl"),
        *("--silent", "--show-error", "--no-buffer", "--fail", "--cacert", str(nginx.certificate)),
        *("--resolve", f"{SERVER_NAME}:{nginx.https_port}:{LOOPBACK}", *headers, *options, target),
        env=debian.environment(),
        stdin=PIPE,
        stdout=PIPE,
        limit=len(BLOCK),
    )


async def _download(nginx: Nginx, upstream: Upstream, holder: Mapping[str, str], version: str, size: int) -> None:
    upstream.go_on.clear()
    upstream.size = size
    curl = await _curl(nginx, holder, "/download", version)
    assert curl.stdout is not None
    with _says("The first bytes of a download arrive only with the last"):
        async with asyncio.timeout(_FIRST_TIMEOUT_S):
            received = len(await curl.stdout.readexactly(FIRST_BYTES))
    upstream.go_on.set()
    while block := await curl.stdout.read(len(BLOCK)):
        received += len(block)
    if await curl.wait() or received != size:
        raise CheckFailed(f"A download by {version[2:]} ended after {received} of {size} bytes.")


async def _upload(nginx: Nginx, upstream: Upstream, holder: Mapping[str, str], version: str, size: int) -> None:
    upstream.first_arrived.clear()
    curl = await _curl(nginx, holder, "/upload", version, "--request", "POST", "--upload-file", "-")
    assert curl.stdin is not None
    assert curl.stdout is not None
    curl.stdin.write(BLOCK[:FIRST_BYTES])
    with _says("The first bytes of an upload arrive only with the last"):
        await asyncio.wait_for(upstream.first_arrived.wait(), _FIRST_TIMEOUT_S)
    left = size - FIRST_BYTES
    while left > 0:
        curl.stdin.write(BLOCK[:left])
        left -= len(BLOCK)
        await curl.stdin.drain()
    curl.stdin.close()
    answer = await curl.stdout.read()
    if await curl.wait() or upstream.received != size:
        raise CheckFailed(f"An upload by {version[2:]} ended after {upstream.received} of {size} bytes: {answer!r}")


async def _exchange_messages(nginx: Nginx, holder: Mapping[str, str]) -> None:
    """A WebSocket: one message after the other, each answered before the next is sent."""
    async with nginx.session() as client:
        try:
            async with (
                asyncio.timeout(_FIRST_TIMEOUT_S),
                client.ws_connect("/api/v1/proxy/websocket", headers=holder) as websocket,
            ):
                for text in ("first", "second"):
                    await websocket.send_str(text)
                    if await websocket.receive_str() != text:
                        raise CheckFailed("A WebSocket's messages are not sent back.")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise CheckFailed(f"A WebSocket does not pass: {error!r}") from error


@contextlib.asynccontextmanager
async def _watch(nginx: Nginx, pids: list[int], *, what: str) -> AsyncIterator[None]:
    """Look meanwhile at how large the processes become and whether nginx writes files."""
    before = {pid: _resident_bytes(pid) for pid in pids}
    grown = dict.fromkeys(pids, 0)
    files: set[str] = set()

    async def look() -> None:
        while True:
            for pid in pids:
                grown[pid] = max(grown[pid], _resident_bytes(pid) - before[pid])
            files.update(_find_files(nginx))
            await asyncio.sleep(_LOOK_INTERVAL_S)

    looking = asyncio.ensure_future(look())
    try:
        yield
    finally:
        looking.cancel()
    most = max(grown.values())
    if most > _MAX_GROWTH_BYTES:
        raise CheckFailed(f"A process grew by {most / 1024**2:.0f} MiB during the {what}.")
    require(sorted(files), what=f"nginx wrote files during the {what}")


def _resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def _find_files(nginx: Nginx) -> Iterator[str]:
    """Temporary files, also those that were deleted while they are open."""
    place = nginx.run_dir / "temporary"
    yield from (str(path) for path in place.rglob("*") if path.is_file())
    for pid in nginx.processes()[1:]:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(place) in (target := str(link.readlink())):
                    yield target


@contextlib.contextmanager
def _says(text: str) -> Iterator[None]:
    try:
        yield
    except (TimeoutError, asyncio.IncompleteReadError) as error:
        raise CheckFailed(f"{text}.") from error
