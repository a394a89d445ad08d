"""What users see of their usage over HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from tests.gateway.stack import ask, until
from tests.rollups.batches import FakeMeter, left_over, store, used
from tests.support.people import Person, register
from zenzefi.context import Context
from zenzefi.rollups.service import roll_up_usage

PATH = "/api/v1/users/me/usage"
FIGURES = ("requests", "bytes_in", "bytes_out")


def total(report: Any) -> tuple[int, ...]:
    return tuple(sum(item[figure] for item in report["items"]) for figure in FIGURES)


async def test_metered_traffic_is_shown_before_and_after_it_is_rolled_up(
    client: aiohttp.ClientSession, ctx: Context, person: Person
) -> None:
    await person.top_up("2.00")
    tokens = [await person.buy_token(1) for _ in range(2)]
    sent, received = b"x" * 321, 0
    for token in (*tokens, tokens[0]):
        answer = await ask(client, token["token"], "/upload", method="POST", data=sent)
        assert answer.status == 200
        received += len(answer.body)
    expected = (3, 3 * len(sent), received)

    async def is_shown() -> bool:
        return total(await person.get(PATH)) == expected

    await until(is_shown, timeout_s=30)
    while True:
        for bucket in ("hour", "day"):
            report = await person.get(PATH, params={"bucket": bucket})
            assert total(report) == expected
            assert report["bucket"] == bucket
            assert all(report["from"] <= item["start"] < report["to"] for item in report["items"])
        by_token = [await person.get(PATH, params={"token_id": token["id"]}) for token in tokens]
        assert [total(report)[0] for report in by_token] == [2, 1]
        if not await left_over(ctx):
            break
        await roll_up_usage(ctx)


async def test_bounds_are_widened_to_whole_buckets(ctx: Context, person: Person) -> None:
    user_id, token_id = UUID(person.user_id), ctx.new_id()
    meter = FakeMeter()
    first, second = (
        meter.batch(ctx, *(used(user_id, token_id, hours_ago=hours) for hours in range(48))) for _ in range(2)
    )
    await store(ctx, first)
    await roll_up_usage(ctx)
    await store(ctx, second)
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)

    async def ask_for(begin: str, end: str, bucket: str) -> Any:
        return await person.get(PATH, params={"from": begin, "to": end, "bucket": bucket})

    report = await ask_for("2026-11-23T10:59:59Z", "2026-11-23T11:00:00.000001Z", "hour")
    assert (report["from"], report["to"]) == ("2026-11-23T10:00:00Z", "2026-11-23T12:00:00Z")
    assert [item["start"] for item in report["items"]] == ["2026-11-23T10:00:00Z", "2026-11-23T11:00:00Z"]
    assert {item["requests"] for item in report["items"]} == {2}
    report = await ask_for("2026-11-22T23:30:00+02:00", "2026-11-22T22:00:00Z", "day")
    assert (report["from"], report["to"]) == ("2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z")
    assert [(item["start"], item["requests"]) for item in report["items"]] == [("2026-11-22T00:00:00Z", 48)]
    whole = await ask_for((noon - timedelta(days=9)).isoformat(), noon.isoformat(), "day")
    assert total(whole) == (96, 960, 9600)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T01:00:00Z", "bucket": "hour"}, "from"),
        ({"from": "2022-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": "0001-01-01T00:00:00+14:00"}, "from"),
        ({"to": "9999-12-31T23:59:59-14:00"}, "to"),
        ({"from": "2026-01-01T00:00:00"}, "from"),
        ({"from": "yesterday"}, "from"),
        ({"bucket": "week"}, "bucket"),
        ({"token_id": "1"}, "token_id"),
        ({"user_id": "00000000-0000-0000-0000-000000000001"}, "user_id"),
    ],
)
async def test_bounds_that_make_no_sense_are_refused(person: Person, query: dict[str, str], field: str) -> None:
    status, body = await person.request("GET", PATH, params=query)
    assert (status, body["code"], list(body["errors"])) == (422, "invalid", [field])


async def test_a_month_by_the_hour_and_three_years_by_the_day_are_allowed(person: Person) -> None:
    for query in (
        {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z", "bucket": "hour"},
        {"from": "2023-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z", "bucket": "day"},
    ):
        assert (await person.get(PATH, params=query))["items"] == []


async def test_nobody_sees_the_usage_of_others(client: aiohttp.ClientSession, ctx: Context, person: Person) -> None:
    await person.top_up("1.00")
    token = await person.buy_token(1)
    batch = FakeMeter().batch(ctx, used(UUID(person.user_id), UUID(token["id"])))
    batch.usage[0].hour = ctx.now().replace(minute=0, second=0, microsecond=0)
    await store(ctx, batch)
    assert total(await person.get(PATH))[0] == 1
    other = await register(client)
    for _ in range(2):
        assert (await other.get(PATH))["items"] == []
        status, body = await other.request("GET", PATH, params={"token_id": token["id"]})
        assert (status, body["code"]) == (404, "token_not_found")
        await roll_up_usage(ctx)
    async with client.get(PATH) as response:
        assert response.status == 401
