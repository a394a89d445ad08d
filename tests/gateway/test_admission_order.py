"""Which of several reasons a refused request is told: the token, the scope, the device, then the limit."""

from tests.gateway.stack import Answer, ask, buy, connect
from tests.support.inprocess import run_app
from tests.support.people import gateway_headers
from zenzefi.access.revocation import lease_key
from zenzefi.access.token_format import hash_token
from zenzefi.context import Context, open_context
from zenzefi.settings import Settings


def told(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.code


async def test_a_device_is_told_of_the_other_before_the_limit_even_when_redis_has_lost_the_lease(
    env: dict[str, str], ctx: Context
) -> None:
    settings = Settings.from_env({**env, "RATE_LIMIT_PROXY": "3/60"})
    async with open_context(settings) as limited, run_app(limited) as url, connect(url) as client:
        person, [token] = await buy(client, scope="certificates_only")
        path = "/certificates/filter"
        assert (await ask(client, token, path)).status == 200
        for status in (200, 200, 429):
            async with client.get("/api/v1/proxy/status", headers=gateway_headers(token)) as response:
                assert response.status == status
        other = "device-0002"
        assert told(await ask(client, token, path, device=other)) == (409, "device_conflict")
        assert await limited.redis.run("DEL", lease_key(hash_token(token))) == 1
        conflict = await ask(client, token, path, device=other)
        assert told(conflict) == (409, "device_conflict")
        assert 200 < int(conflict.headers["Retry-After"]) <= 300
        assert told(await ask(client, token, "/hello", device=other)) == (403, "scope_denied")
        assert told(await ask(client, token, path)) == (429, "rate_limit_exceeded")
        async with ctx.transaction() as conn:
            await conn.execute(
                "DELETE FROM device_leases WHERE token_id = (SELECT id FROM access_tokens WHERE token_hash = $1)",
                hash_token(token),
            )
        refused = await ask(client, token, path, device=other)
        assert told(refused) == (429, "rate_limit_exceeded")
        assert int(refused.headers["Retry-After"]) > 0
    async with ctx.connection() as conn:
        denied = await conn.fetchval(
            "SELECT sum(requests)::int FROM usage_batches WHERE user_id = $1::text::uuid AND outcome = 'denied'",
            person.user_id,
        )
    assert denied == 5, "each refusal of the gateway's is metered; that of the status is none"
