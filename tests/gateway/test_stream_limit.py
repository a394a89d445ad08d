"""How many requests of one token may be on their way at once."""

from contextlib import AsyncExitStack

import aiohttp

from tests.gateway.stack import ask, buy, connect, until
from tests.support.inprocess import run_app
from tests.support.people import gateway_headers
from zenzefi.context import Context, open_context
from zenzefi.settings import Settings

LIMIT = 3


async def begin_stream(client: aiohttp.ClientSession, stack: AsyncExitStack, token: str) -> aiohttp.ClientResponse:
    """An answer that goes on until the stack closes."""
    response = await stack.enter_async_context(
        client.get("/api/v1/proxy/events?count=1000", headers=gateway_headers(token))
    )
    assert response.status == 200
    return response


async def serves(client: aiohttp.ClientSession, token: str) -> bool:
    return (await ask(client, token)).status == 200


async def test_one_token_has_so_many_streams_and_takes_no_others_place(env: dict[str, str], ctx: Context) -> None:
    settings = Settings.from_env({**env, "MAX_STREAMS_PER_TOKEN": str(LIMIT)})
    async with open_context(settings) as other, run_app(other) as url, connect(url) as client:
        person, [token, second] = await buy(client, tokens=2)
        async with AsyncExitStack() as stack:
            for _ in range(LIMIT - 1):
                await begin_stream(client, stack, token)
            async with client.ws_connect("/api/v1/proxy/ws", headers=gateway_headers(token)):
                refused = await ask(client, token)
                assert (refused.status, refused.code) == (429, "too_many_streams")
                assert refused.headers["Retry-After"] == "1"
                assert await serves(client, second)
                async with client.get("/api/v1/proxy/status", headers=gateway_headers(token)) as response:
                    assert response.status == 200
            await until(lambda: serves(client, token), timeout_s=30)  # a stream that has ended makes room
        await until(lambda: serves(client, token), timeout_s=30)
    async with ctx.connection() as conn:
        denied = await conn.fetchval(
            "SELECT sum(requests)::int FROM usage_batches WHERE user_id = $1::text::uuid AND outcome = 'denied'",
            person.user_id,
        )
    assert denied >= 1
