import asyncio
import hashlib
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.gateway.stack import ask, buy, gateway_to, until
from tests.gateway.upstreams import answers_when, raw_upstream
from tests.support.people import Person, gateway_headers
from zenzefi.access.token_format import mint
from zenzefi.context import Context
from zenzefi.devstack.ports import find_free_port


@pytest.fixture
async def token(person: Person) -> str:
    await person.top_up("1.00")
    string: str = (await person.buy_token(1))["token"]
    return string


async def problem(response: aiohttp.ClientResponse) -> tuple[int, str]:
    return response.status, (await response.json(content_type=None))["code"]


async def is_activated(client: aiohttp.ClientSession, token: str) -> bool:
    async with client.get("/api/v1/proxy/status", headers={"X-Access-Token": token}) as response:
        assert response.status == 200
        activated: bool = (await response.json())["is_activated"]
        return activated


# --- what a request has to name ---


async def test_a_request_without_a_token_is_challenged(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/v1/proxy/hello", headers={"X-Device-ID": "device-0001"}) as response:
        assert await problem(response) == (401, "token_required")
        assert "X-Access-Token" in response.headers["WWW-Authenticate"]


async def test_a_request_without_a_device_is_refused(client: aiohttp.ClientSession, token: str) -> None:
    async with client.get("/api/v1/proxy/hello", headers={"X-Access-Token": token}) as response:
        assert await problem(response) == (403, "device_required")


@pytest.mark.parametrize("device", ["", "1234567", "x" * 256, "with a space", "tab\tinside", "umläut-device"])
async def test_a_device_is_8_to_255_visible_ascii_characters(
    client: aiohttp.ClientSession, token: str, device: str
) -> None:
    async with client.get("/api/v1/proxy/hello", headers=gateway_headers(token, device)) as response:
        assert await problem(response) == (400, "bad_device_id")


@pytest.mark.parametrize("device", ["12345678", "x" * 255, "!#$%&'*+-.^_`|~"])
async def test_any_visible_ascii_characters_are_a_device(
    client: aiohttp.ClientSession, token: str, device: str
) -> None:
    assert (await ask(client, token, device=device)).status == 200


@pytest.mark.parametrize("name", ["X-Access-Token", "X-Device-ID"])
async def test_a_header_of_ours_that_stands_there_twice_is_refused(
    client: aiohttp.ClientSession, token: str, name: str
) -> None:
    credentials = gateway_headers(token)
    headers = [*credentials.items(), (name, credentials[name])]
    async with client.get("/api/v1/proxy/hello", headers=headers) as response:
        assert await problem(response) == (400, "ambiguous_header")


@pytest.mark.parametrize("name", ["X_Access_Token", "x_device-id", "X-Device_ID", "X_Forwarded_For", "X_User_Id"])
async def test_a_header_of_ours_with_underscores_is_refused(
    client: aiohttp.ClientSession, token: str, name: str
) -> None:
    async with client.get("/api/v1/proxy/hello", headers={**gateway_headers(token), name: "value-of-it"}) as response:
        assert await problem(response) == (400, "ambiguous_header")


async def test_other_headers_with_underscores_pass(client: aiohttp.ClientSession, token: str) -> None:
    async with client.get("/api/v1/proxy/hello", headers={**gateway_headers(token), "my_header": "1"}) as response:
        assert response.status == 200
        assert ["my_header", "1"] in (await response.json())["headers"]


# --- the token ---


@pytest.mark.parametrize("bad", ["", "znz_", "not-a-token", mint(bytes(32))[:-1] + "!", "Bearer " + mint(bytes(32))])
async def test_what_is_no_token_is_rejected(client: aiohttp.ClientSession, bad: str) -> None:
    async with client.get("/api/v1/proxy/hello", headers=gateway_headers(bad)) as response:
        assert await problem(response) == (401, "token_rejected")
        assert "WWW-Authenticate" in response.headers


async def test_a_token_that_nobody_bought_is_rejected(client: aiohttp.ClientSession) -> None:
    answer = await ask(client, mint(hashlib.sha256(b"nobody's").digest()))
    assert (answer.status, answer.code) == (401, "token_rejected")


async def test_a_jwt_is_neither_needed_nor_of_any_use(client: aiohttp.ClientSession, person: Person) -> None:
    async with client.get("/api/v1/proxy/hello", headers={**person.headers, "X-Device-ID": "device-0001"}) as response:
        assert await problem(response) == (401, "token_required")


# --- path and scope ---


async def test_a_bad_path_is_told_only_to_the_holder_of_a_token(client: aiohttp.ClientSession, token: str) -> None:
    for string, expected in ((token, (400, "bad_path")), (mint(bytes(32)), (401, "token_rejected"))):
        answer = await ask_raw(client, string, "/api/v1/proxy/a%2fb")
        assert answer == expected


async def ask_raw(client: aiohttp.ClientSession, token: str, target: str) -> tuple[int, str]:
    """A request whose target goes out exactly as it is written."""
    async with client.get(URL(target, encoded=True), headers=gateway_headers(token)) as response:
        return await problem(response)


async def test_a_scope_lets_through_what_it_names_and_nothing_else(person: Person) -> None:
    await person.top_up("1.00")
    token = (await person.buy_token(1, scope="certificates_only"))["token"]
    assert (await ask(person.client, token, "/certificates/filter")).status == 200
    answer = await ask(person.client, token, "/orders")
    assert (answer.status, answer.code) == (403, "scope_denied")


async def test_a_request_that_is_refused_takes_no_device_lease(person: Person) -> None:
    await person.top_up("1.00")
    token = (await person.buy_token(1, scope="certificates_only"))["token"]
    assert (await ask(person.client, token, "/orders", device="device-0001")).status == 403
    assert (await ask_raw(person.client, token, "/api/v1/proxy/%2e%2e/x"))[0] == 400
    assert (await ask(person.client, token, "/certificates/filter", device="device-0002")).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_every_method_goes_through(client: aiohttp.ClientSession, token: str, method: str) -> None:
    answer = await ask(client, token, method=method)
    assert answer.status == 200
    assert answer.headers["X-Token-Expires-At"].endswith("Z")


async def test_the_limits_of_the_api_are_not_those_of_the_gateway(client: aiohttp.ClientSession, token: str) -> None:
    body = b"{this is not JSON" * 10_000
    answer = await ask(client, token, "/upload", method="POST", data=body)
    assert answer.status == 200
    assert f'"sha256": "{hashlib.sha256(body).hexdigest()}"'.encode() in answer.body


# --- the clock ---


async def test_the_first_answer_starts_the_clock_and_later_ones_do_not_move_it(
    client: aiohttp.ClientSession, token: str
) -> None:
    assert not await is_activated(client, token)
    first = await ask(client, token)
    second = await ask(client, token, "/status/500")
    assert await is_activated(client, token)
    assert first.headers["X-Token-Expires-At"] == second.headers["X-Token-Expires-At"]


async def test_an_error_of_the_upstream_is_an_answer_and_starts_the_clock(
    client: aiohttp.ClientSession, token: str
) -> None:
    assert (await ask(client, token, "/status/503")).status == 503
    assert await is_activated(client, token)


async def test_asking_for_the_status_does_not_start_the_clock(client: aiohttp.ClientSession, token: str) -> None:
    for _ in range(3):
        assert not await is_activated(client, token)


async def test_no_refusal_of_the_gateway_starts_the_clock(client: aiohttp.ClientSession, token: str) -> None:
    credentials = gateway_headers(token)
    for headers, status in (
        ({"X-Access-Token": token}, 403),
        (gateway_headers(token, "short"), 400),
        ({**credentials, "X_Device_ID": "device-0001"}, 400),
    ):
        async with client.get("/api/v1/proxy/hello", headers=headers) as response:
            assert response.status == status
    assert (await ask_raw(client, token, "/api/v1/proxy/a//b"))[0] == 400
    assert not await is_activated(client, token)


async def test_a_denied_scope_does_not_start_the_clock(person: Person) -> None:
    await person.top_up("1.00")
    bought = await person.buy_token(1, scope="certificates_only")
    assert (await ask(person.client, bought["token"], "/orders")).status == 403
    status, refund = await person.request("DELETE", f"/api/v1/tokens/{bought['id']}")
    assert (status, refund["refund_amount"]) == (200, "1.00")


async def test_an_upstream_that_refuses_does_not_start_the_clock(env: dict[str, str], token: str) -> None:
    async with gateway_to(env, f"http://127.0.0.1:{find_free_port()}") as client:
        answers = [await ask(client, token) for _ in range(8)]
        # The first ones find it out, the others find the circuit breaker open.
        assert {answer.status for answer in answers} == {502, 503}
        assert all("Retry-After" in answer.headers for answer in answers if answer.status == 503)
        assert not await is_activated(client, token)


async def test_another_device_is_refused_without_starting_the_clock(env: dict[str, str], token: str) -> None:
    async with gateway_to(env, f"http://127.0.0.1:{find_free_port()}") as client:
        assert (await ask(client, token, device="device-0001")).status == 502
        answer = await ask(client, token, device="device-0002")
        assert (answer.status, answer.code) == (409, "device_conflict")
        assert not await is_activated(client, token)


async def test_a_late_upstream_does_not_start_the_clock(env: dict[str, str], upstream_url: str, token: str) -> None:
    async with gateway_to(env, upstream_url, UPSTREAM_HEAD_TIMEOUT="0.3") as client:
        assert (await ask(client, token, "/slow?seconds=5")).status == 504
        assert not await is_activated(client, token)


async def test_the_answer_starts_the_clock_of_a_client_that_left_before_it(env: dict[str, str], token: str) -> None:
    go_on = asyncio.Event()
    async with raw_upstream(answers_when(go_on)) as upstream, gateway_to(env, upstream.url) as client:
        left = asyncio.create_task(ask(client, token))
        await upstream.asked.wait()
        left.cancel()
        await asyncio.wait([left])
        assert not await is_activated(client, token)
        go_on.set()
        await until(lambda: is_activated(client, token), timeout_s=30)


async def test_a_token_that_is_rotated_before_the_answer_keeps_its_clock_still(
    env: dict[str, str], person: Person
) -> None:
    await person.top_up("1.00")
    bought = await person.buy_token(1)
    go_on = asyncio.Event()
    async with raw_upstream(answers_when(go_on)) as upstream, gateway_to(env, upstream.url) as client:
        first_use = asyncio.create_task(ask(client, bought["token"]))
        await upstream.asked.wait()
        owner = replace(person, client=client)
        status, issued = await owner.request("POST", f"/api/v1/tokens/{bought['id']}/rotate")
        assert status == 200
        answer = await first_use
        assert (answer.status, answer.code) == (401, "access_ended")
        go_on.set()
        assert not await is_activated(person.client, issued["token"])


async def test_a_token_that_expired_is_rejected_by_the_clock_of_the_database(
    client: aiohttp.ClientSession, ctx: Context, token: str
) -> None:
    assert (await ask(client, token)).status == 200
    await move_activation(ctx, token, seconds=-3600)
    # Nobody said that the row was changed, so what is remembered of it has to age out.
    await until(lambda: is_rejected(client, token), timeout_s=6)


async def is_rejected(client: aiohttp.ClientSession, token: str) -> bool:
    return (await ask(client, token)).status == 401


async def move_activation(ctx: Context, token: str, *, seconds: float) -> None:
    """Have a token activated so many seconds after it really was (negative: before)."""
    async with ctx.transaction() as conn:
        await conn.execute(
            """
            UPDATE access_tokens SET activated_at = activated_at + $2 * interval '1 second',
                                     expires_at = expires_at + $2 * interval '1 second'
            WHERE token_hash = $1
            """,
            hashlib.sha256(token.encode()).digest(),
            seconds,
        )


# --- what is kept of a token ---


async def test_neither_tokens_nor_devices_are_kept_in_redis(
    client: aiohttp.ClientSession, ctx: Context, token: str
) -> None:
    device = "device-of-somebody-with-a-long-name"
    assert (await ask(client, token, device=device)).status == 200
    dump = await everything_in_redis(ctx)
    assert hashlib.sha256(token.encode()).hexdigest().encode() in dump
    assert token.encode() not in dump
    assert token[4:40].encode() not in dump
    assert device.encode() not in dump


async def everything_in_redis(ctx: Context) -> bytes:
    keys: Any = await ctx.redis.run("KEYS", "*")
    strings = [key for key in keys if await ctx.redis.run("TYPE", key) == b"string"]
    values: list[Any] = [await ctx.redis.run("GET", key) for key in strings]
    return b"\n".join([*keys, *(value for value in values if value is not None)])


async def test_a_purchased_token_needs_no_waiting(client: aiohttp.ClientSession) -> None:
    _, tokens = await buy(client, tokens=5)
    assert [(await ask(client, token)).status for token in tokens] == [200] * 5
