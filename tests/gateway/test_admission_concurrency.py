"""Many first uses at the same time, over the product's own processes."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from tests.gateway.stack import ask, buy, connect, until_all_forward
from tests.support.serving import Served
from zenzefi.context import Context

Serving = Callable[..., AbstractAsyncContextManager[Served]]


async def test_two_hundred_first_uses_over_four_processes_agree_on_one_activation(
    serving: Serving, ctx: Context, upstream_url: str
) -> None:
    async with serving(processes=4) as served, connect(served.url, fresh=True) as client:
        await until_all_forward(served, client, upstream_url, processes=4)
        for _ in range(3):
            person, [token] = await buy(client)
            answers = await asyncio.gather(*(ask(client, token) for _ in range(200)))
            assert Counter(answer.status for answer in answers) == {200: 200}
            assert len({answer.headers["X-Token-Expires-At"] for answer in answers}) == 1
            [bought] = (await person.get("/api/v1/tokens/my-tokens"))["items"]
            assert bought["expires_at"] == answers[0].headers["X-Token-Expires-At"]
            async with ctx.connection() as conn:
                activations = await conn.fetchval(
                    "SELECT count(*) FROM audit_log WHERE action = 'token.activate' AND resource_id = $1", bought["id"]
                )
            assert activations == 1


async def test_fifty_devices_over_four_processes_have_one_winner(serving: Serving, upstream_url: str) -> None:
    async with serving(processes=4) as served, connect(served.url, fresh=True) as client:
        await until_all_forward(served, client, upstream_url, processes=4)
        for _ in range(5):
            _, [token] = await buy(client)
            devices = [f"device-{number:04}" for number in range(50)]
            answers = await asyncio.gather(*(ask(client, token, device=device) for device in devices))
            assert Counter(answer.status for answer in answers) == {200: 1, 409: 49}
            assert {answer.code for answer in answers if answer.status == 409} == {"device_conflict"}
            assert all(1 <= int(answer.headers["Retry-After"]) <= 300 for answer in answers if answer.status == 409)
            [winner] = [device for device, answer in zip(devices, answers, strict=True) if answer.status == 200]
            again = await asyncio.gather(*(ask(client, token, device=device) for device in devices for _ in range(2)))
            assert Counter(answer.status for answer in again) == {200: 2, 409: 98}
            assert (await ask(client, token, device=winner)).status == 200
