"""When connections are refused: a proxy before several instances asks the next one then, and waits for no other."""

import asyncio
import signal

from tests.server.supervised import supervised
from tests.server.support import HOST
from zenzefi.server.listening import listen

DRIP = b"GET /drip?events=10 HTTP/1.1\r\n" + HOST + b"\r\n"  # an answer that takes a second


async def test_connections_are_refused_until_a_process_listens() -> None:
    with listen("127.0.0.1", 0, variables=("HOST", "PORT")) as listener:
        port = listener.getsockname()[1]
        assert not await _is_accepted(port)
        listener.listen()  # as each process does that is ready to serve
        assert await _is_accepted(port)
        listener.refuse()
        assert not await _is_accepted(port)


async def test_connections_are_refused_as_soon_as_a_server_drains() -> None:
    async with supervised(1) as running:
        await running.logged("serving")
        async with running.connect() as client:
            await client.send(DRIP)
            await client.reader.readuntil(b"data: 0")
            running.signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                while await _is_accepted(running.port):  # noqa: ASYNC110  nobody tells when the signal has arrived
                    await asyncio.sleep(0.01)
            assert running.process.returncode is None
            assert (await client.rest()).endswith(b"data: 9\n\n\r\n0\r\n\r\n")
        assert await running.ended() == 0


async def _is_accepted(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True
