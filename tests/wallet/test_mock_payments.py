"""The mock provider: its page, its events over HTTP, and what it remembers."""

import dataclasses
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import aiohttp
import pytest
from aiohttp import web

from tests.support.people import Person, register
from tests.support.servers import Cluster
from tests.wallet.payments import RETURN_URL, buy, look, put_checks_off
from zenzefi.app import create_app
from zenzefi.context import Context
from zenzefi.server.runner import HardenedRunner
from zenzefi.wallet import settlement


@pytest.fixture
async def reachable(ctx: Context) -> AsyncIterator[tuple[Context, aiohttp.ClientSession]]:
    """The application where BACKEND_URL says that it is, so that the mock's events find it."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    settings = dataclasses.replace(ctx.settings, backend_url=url, payment_return_hosts=("127.0.0.1",))
    own = dataclasses.replace(ctx, settings=settings)
    runner = HardenedRunner(create_app(own))
    await runner.setup()
    await web.SockSite(runner, listening).start()
    try:
        async with aiohttp.ClientSession(url, cookie_jar=aiohttp.DummyCookieJar()) as client:
            yield own, client
    finally:
        await runner.cleanup()


async def _page(client: aiohttp.ClientSession, person: Person) -> tuple[str, str]:
    status, begun = await buy(person)
    assert status == 201
    page = urlsplit(begun["payment_url"])
    assert client._base_url is not None
    assert page.port == client._base_url.port
    return begun["payment_id"], page.path


@pytest.mark.parametrize(
    ("action", "state", "balance"), [("pay", "succeeded", "10.00"), ("cancel", "canceled", "0.00")]
)
async def test_page_pays_or_cancels_and_sends_the_payer_back(
    reachable: tuple[Context, aiohttp.ClientSession], action: str, state: str, balance: str
) -> None:
    _, client = reachable
    person = await register(client)
    payment_id, path = await _page(client, person)
    async with client.get(path) as response:
        text = await response.text()
        assert (response.status, response.content_type) == (200, "text/html")
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "100.00 RUB" in text
        assert f'action="{path}/{action}"' in text
    other = "cancel" if action == "pay" else "pay"
    for asked in (action, action, other):  # the first word stays, and is told again
        async with client.post(f"{path}/{asked}", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (303, RETURN_URL)
    assert (await look(person, payment_id))["status"] == state
    assert await person.balance() == balance
    async with client.get(path) as response:
        text = await response.text()
        assert state in text
        assert "<form" not in text


async def test_return_address_is_text_on_the_page(reachable: tuple[Context, aiohttp.ClientSession]) -> None:
    _, client = reachable
    person = await register(client)
    url = "https://127.0.0.1/'><script>alert(1)</script>"
    status, begun = await person.request(
        "POST", "/api/v1/currency/purchase", json={"amount_znc": "1.00", "return_url": url}
    )
    assert status == 201
    assert "<script" not in await _text(client, f"{urlsplit(begun['payment_url']).path}/cancel")


async def _text(client: aiohttp.ClientSession, path: str) -> str:
    async with client.post(path, allow_redirects=False) as response:
        assert response.status == 303
    async with client.get(path.removesuffix("/cancel")) as response:
        return await response.text()


async def test_unknown_payment_has_no_page(client: aiohttp.ClientSession) -> None:
    for payment_id in (f"mock_{uuid4().hex}", "x", "%00", "a" * 1000):
        for method, path in (("GET", ""), ("POST", "/pay"), ("POST", "/cancel")):
            async with client.request(method, f"/mock-payments/{payment_id}{path}") as response:
                assert response.status == 404


async def test_lost_event_of_the_mock_is_healed(
    reachable: tuple[Context, aiohttp.ClientSession], cluster: Cluster
) -> None:
    own, client = reachable
    await put_checks_off(own)
    person = await register(client)
    paid, path = await _page(client, person)
    unpaid, _ = await _page(client, person)
    address, own.settings = own.settings, dataclasses.replace(own.settings, backend_url="http://127.0.0.1:1")
    async with client.post(f"{path}/pay", allow_redirects=False) as response:
        assert response.status == 303
    own.settings = address
    assert (await look(person, paid))["status"] == "pending"
    connection = await cluster.connect(own.settings.postgres_db)
    try:
        query = "UPDATE payments SET created_at = $2, next_check_at = $2 WHERE id = any($1)"
        await connection.execute(query, [UUID(paid), UUID(unpaid)], own.now() - timedelta(minutes=61))
    finally:
        await connection.close()
    assert await settlement.heal(own) == 2
    assert [(await look(person, each))["status"] for each in (paid, unpaid)] == ["succeeded", "expired"]
    assert await person.balance() == "10.00"
