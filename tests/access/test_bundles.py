"""Bundles: offered to all, bought at once, each token with the price that was paid for it."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.admin.superusers import audit_rows, make_superuser
from tests.support.people import Person, gateway_headers
from tests.support.plans import PLAN_MODES, filled_database, plan_of
from tests.support.servers import Cluster
from zenzefi.access.bundle_models import BundleTerms
from zenzefi.access.bundle_pricing import price_bundle, share_out
from zenzefi.access.bundle_queries import select_bundles
from zenzefi.context import Context
from zenzefi.wallet import service as wallet

BUNDLES = "/api/v1/bundles"
CENT = Decimal("0.01")
PRICES = {1: Decimal("1.00"), 24: Decimal("18.00"), 168: Decimal("99.99")}
# 3 x 18.00 less 12.35 % are 47.331: neither the whole nor a third of it is a round number of kopecks.
UNEVEN = {"token_count": 3, "duration_hours": 24, "discount_percent": "12.35"}


@pytest.fixture
async def superuser(ctx: Context, client: aiohttp.ClientSession) -> Person:
    """Somebody who may say what bundles hold."""
    return await make_superuser(ctx, client)


async def offer(superuser: Person, **terms: object) -> Any:
    status, bundle = await superuser.request("POST", BUNDLES, json={"name": f"Bundle {uuid4().hex}", **terms})
    assert status == 201, bundle
    return bundle


async def buy(person: Person, bundle_id: str, **kwargs: Any) -> tuple[int, Any]:
    return await person.request("POST", f"{BUNDLES}/{bundle_id}/purchase", **kwargs)


async def test_the_four_default_bundles_are_offered_to_anybody(client: aiohttp.ClientSession) -> None:
    async with client.get(f"{BUNDLES}?limit=4") as response:
        assert response.status == 200
        page = await response.json()
    assert [
        (each["name"], each["token_count"], each["duration_hours"], each["scope"], each["total_price"])
        for each in page["items"]
    ] == [
        ("Starter Pack", 5, 24, "full", "81.00"),
        ("Pro Bundle", 10, 24, "full", "153.00"),
        ("Ultimate Package", 20, 168, "full", "1600.00"),
        ("Certificates Bundle", 10, 24, "certificates_only", "153.00"),
    ]
    starter = page["items"][0]
    assert (starter["base_price"], starter["savings"], starter["price_per_token"]) == ("90.00", "9.00", "16.20")
    assert starter["discount_percent"] == "10.00"
    async with client.get(f"{BUNDLES}/{starter['id']}") as response:
        assert await response.json() == starter


async def test_a_bundle_bought_and_refunded_leaves_the_start_balance(
    ctx: Context, superuser: Person, person: Person
) -> None:
    bundle = await offer(superuser, **UNEVEN)
    assert (bundle["base_price"], bundle["total_price"], bundle["savings"]) == ("54.00", "47.33", "6.67")
    await person.top_up("50.00")
    status, bought = await buy(person, bundle["id"])
    assert status == 201, bought
    assert (bought["bundle_name"], bought["cost_znc"], bought["new_balance"]) == (bundle["name"], "47.33", "2.67")
    assert [token["cost_znc"] for token in bought["tokens"]] == ["15.78", "15.78", "15.77"]
    listed = (await person.get("/api/v1/tokens/my-tokens"))["items"]
    assert {token["id"] for token in listed} == {token["id"] for token in bought["tokens"]}
    (entry,) = (await person.get("/api/v1/currency/transactions?transaction_type=purchase"))["items"]
    assert (entry["amount"], bundle["name"] in entry["description"]) == ("-47.33", True)
    refunds = await asyncio.gather(
        *(person.request("DELETE", f"/api/v1/tokens/{token['id']}") for token in bought["tokens"])
    )
    assert [status for status, _ in refunds] == [200] * 3
    assert await person.balance() == "50.00"
    (row,) = [
        row
        for row in await audit_rows(ctx, action="bundle.purchase", resource_id=bundle["id"])
        if str(row["actor_user_id"]) == person.user_id
    ]
    assert [token["id"] for token in row["after"]["tokens"]] == [token["id"] for token in bought["tokens"]]
    assert all(token["token"] not in str(row["after"]) for token in bought["tokens"])


async def test_a_token_of_a_bundle_works(person: Person) -> None:
    await person.top_up("153.00")
    certificates = (await person.get(f"{BUNDLES}?limit=4"))["items"][3]
    tokens = (await buy(person, certificates["id"]))[1]["tokens"]
    assert len({token["token"] for token in tokens}) == 10
    for path, status in (("/certificates/filter", 200), ("/hello", 403)):
        headers = gateway_headers(tokens[0]["token"])
        async with person.client.get(f"/api/v1/proxy{path}", headers=headers) as response:
            assert response.status == status
    status, problem = await person.request("DELETE", f"/api/v1/tokens/{tokens[0]['id']}")
    assert (status, problem["code"]) == (409, "token_activated")


async def test_later_prices_change_nothing_of_what_was_sold(superuser: Person, person: Person) -> None:
    bundle = await offer(superuser, **UNEVEN)
    await person.top_up("47.33")
    bought = (await buy(person, bundle["id"]))[1]
    changed = {"discount_percent": "0.00", "token_count": 50}
    status, now = await superuser.request("PATCH", f"{BUNDLES}/{bundle['id']}", json=changed)
    assert (status, now["total_price"], now["name"]) == (200, "900.00", bundle["name"])
    assert (await superuser.request("DELETE", f"{BUNDLES}/{bundle['id']}"))[0] == 204
    for token in bought["tokens"]:
        assert (await person.request("DELETE", f"/api/v1/tokens/{token['id']}"))[1]["refund_amount"] == token[
            "cost_znc"
        ]
    assert await person.balance() == "47.33"


async def test_a_deleted_bundle_is_gone_and_its_name_is_free(ctx: Context, superuser: Person, person: Person) -> None:
    bundle = await offer(superuser, **UNEVEN)
    taken = {"name": bundle["name"].upper(), **UNEVEN}
    assert (await superuser.request("POST", BUNDLES, json=taken))[1]["code"] == "bundle_name_taken"
    other = await offer(superuser, **UNEVEN)
    status, problem = await superuser.request("PATCH", f"{BUNDLES}/{other['id']}", json={"name": bundle["name"]})
    assert (status, problem["code"]) == (409, "bundle_name_taken")
    path = f"{BUNDLES}/{bundle['id']}"
    assert (await superuser.request("DELETE", path))[0] == 204
    await person.top_up("100.00")
    for method, suffix in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("POST", "/purchase")):
        status, problem = await superuser.request(method, path + suffix, json={})
        assert (status, problem["code"]) == (404, "bundle_not_found")
    assert (await superuser.request("POST", BUNDLES, json=taken))[0] == 201
    (row,) = await audit_rows(ctx, action="bundle.delete", resource_id=bundle["id"])
    assert (row["before"]["name"], str(row["actor_user_id"])) == (bundle["name"], superuser.user_id)


async def test_of_parallel_purchases_with_money_for_one_only_one_succeeds(superuser: Person, person: Person) -> None:
    bundle = await offer(superuser, **UNEVEN)
    await person.top_up("90.00")
    answers = await asyncio.gather(*(buy(person, bundle["id"]) for _ in range(20)))
    assert sorted(status for status, _ in answers) == [201] + [402] * 19
    assert await person.balance() == "42.67"
    assert len((await person.get("/api/v1/tokens/my-tokens"))["items"]) == 3


async def test_a_repeated_purchase_with_its_key_buys_once(superuser: Person, person: Person) -> None:
    bundle = await offer(superuser, **UNEVEN)
    await person.top_up("100.00")
    key = {"Idempotency-Key": uuid4().hex}
    first = await buy(person, bundle["id"], headers=key)
    assert first == await buy(person, bundle["id"], headers=key)
    assert await person.balance() == "52.67"


@pytest.mark.parametrize(
    "body",
    [
        {"token_count": 0},
        {"token_count": 101},
        {"token_count": 1.0},
        {"token_count": True},
        {"discount_percent": "100"},
        {"discount_percent": "-0.01"},
        {"discount_percent": "1.234"},
        {"discount_percent": "NaN"},
        {"duration_hours": 25},
        {"scope": "everything"},
        {"name": " "},
        {"name": "a\nb"},
        {"name": "x" * 101},
        {"total_price": "0.01"},
        {"base_price": "0.01"},
        {"id": str(UUID(int=1))},
        {"deleted_at": None},
    ],
)
async def test_what_cannot_be_offered_is_refused(superuser: Person, body: dict[str, object]) -> None:
    whole = {"name": f"Bundle {uuid4().hex}", **UNEVEN, **body}
    assert (await superuser.request("POST", BUNDLES, json=whole))[0] == 422
    bundle_id = (await superuser.get(f"{BUNDLES}?limit=1"))["items"][0]["id"]
    before = await superuser.get(f"{BUNDLES}/{bundle_id}")
    assert (await superuser.request("PATCH", f"{BUNDLES}/{bundle_id}", json=body))[0] == 422
    assert await superuser.get(f"{BUNDLES}/{bundle_id}") == before


async def test_an_ordinary_user_changes_no_bundle_and_a_stranger_buys_none(
    client: aiohttp.ClientSession, person: Person
) -> None:
    bundle_id = (await person.get(f"{BUNDLES}?limit=1"))["items"][0]["id"]
    for method, path in (("POST", BUNDLES), ("PATCH", f"{BUNDLES}/{bundle_id}"), ("DELETE", f"{BUNDLES}/{bundle_id}")):
        status, problem = await person.request(method, path, json={"name": "Mine"})
        assert (status, problem["code"]) == (403, "forbidden")
    async with client.post(f"{BUNDLES}/{bundle_id}/purchase") as response:
        assert response.status == 401
    assert (await buy(person, bundle_id))[1]["code"] == "insufficient_funds"
    assert (await buy(person, "starter-pack"))[0] == 404


async def test_the_list_is_served_by_an_index(cluster: Cluster, fresh_database: str) -> None:
    rows = """
        INSERT INTO bundles
        SELECT lpad(to_hex(number), 32, '0')::uuid, number, '', 1, 24, 'full', 0, now(), now(), NULL
        FROM generate_series(1, 5000) AS number
    """
    async with filled_database(cluster, fresh_database, rows) as conn:
        for mode in PLAN_MODES:
            for after in (0, 4000):
                plan = await plan_of(conn, mode, lambda: select_bundles(conn, after=UUID(int=after), limit=21))  # noqa: B023
                assert "Seq Scan" not in plan, plan
                assert "Sort" not in plan, plan


@given(
    count=st.integers(1, 100),
    hours=st.sampled_from(sorted(PRICES)),
    discount=st.decimals(min_value=0, max_value="99.99", places=2),
)
def test_the_shares_sum_up_to_the_price_and_hardly_differ(count: int, hours: int, discount: Decimal) -> None:
    terms = BundleTerms(
        name="", description="", token_count=count, duration_hours=hours, scope="full", discount_percent=discount
    )
    price = price_bundle(terms, prices=PRICES)
    assert sum(price.token_prices) == price.total <= price.base
    assert len(price.token_prices) == count
    assert max(price.token_prices) - min(price.token_prices) <= CENT
    assert min(price.token_prices) >= CENT
    exact = price.base * (100 - discount) / 100
    assert abs(price.total - exact) <= CENT / 2 or price.total == CENT * count


def test_the_first_shares_are_the_greater_ones() -> None:
    assert share_out(Decimal("1.00"), 3) == (Decimal("0.34"), Decimal("0.33"), Decimal("0.33"))


async def test_the_ledger_is_sound_after_all_of_it(ctx: Context) -> None:
    assert (await wallet.verify(ctx)).is_sound
