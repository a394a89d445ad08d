"""The census counts what is there, and what it costs does not grow with what is stored."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest

from tests.support.plans import PLAN_MODES, explain, filled_database
from tests.support.servers import Cluster
from zenzefi.context import Context, open_context
from zenzefi.errors import JsonObject
from zenzefi.health import census_queries as queries
from zenzefi.health.census import take_census
from zenzefi.infra import facts
from zenzefi.infra.db import Connection
from zenzefi.settings import Settings

NOW = datetime(2026, 11, 23, 8, tzinfo=UTC)
HISTORY = 50_000  # rows of each table that belong to the past
ACTIVE, UNUSED, SESSIONS, USED_BY, PENDING, STUCK = 3_000, 2_000, 900, 300, 40, 7
_NOW = f"'{NOW.isoformat()}'::timestamptz"
_ID = "lpad(to_hex(number), 32, '0')::uuid"
_OPEN_ID = "('f' || lpad(to_hex(number), 31, '0'))::uuid"


def past(first: int, last: int) -> tuple[str, ...]:
    """Statements for tokens, sessions, payments and users that are over and done with."""
    rows = f"FROM generate_series({first}, {last}) AS number"
    return (
        f"""
        INSERT INTO access_tokens (id, user_id, token_hash, token_hint, duration_hours, scope, price,
            purchase_transaction_id, created_at, activated_at, expires_at, ended_at, end_reason)
        SELECT {_ID}, {_ID}, sha256(number::text::bytea), 'znz_', 1, 'full', 1, {_ID}, {_NOW},
            {_NOW} - interval '1 hour', {_NOW}, {_NOW}, 'expired' {rows}
        """,
        f"""
        INSERT INTO gateway_sessions (id, token_id, device_hash, device_hint, started_at, last_activity, ended_at,
            request_count, bytes_in, bytes_out)
        SELECT {_ID}, {_ID}, '\\x00', 'device', {_NOW}, {_NOW}, {_NOW}, 1, 1, 1 {rows}
        """,
        f"""
        INSERT INTO payments (id, user_id, provider, status, amount_znc, amount, currency, return_url, next_check_at,
            created_at)
        SELECT {_ID}, {_ID}, 'mock', 'expired', 1, 10, 'RUB', 'https://example.com/', {_NOW}, {_NOW} {rows}
        """,
        f"""
        INSERT INTO users (id, email, username, password_hash, referral_code, created_at, updated_at)
        SELECT {_ID}, number || '@example.com', 'user-' || number, '-', number, {_NOW}, {_NOW} {rows}
        """,
    )


# What is going on comes last: whoever looks for it from a table's start passes all that is over.
_PRESENT = (
    f"""
    INSERT INTO access_tokens (id, user_id, token_hash, token_hint, duration_hours, scope, price,
        purchase_transaction_id, created_at, activated_at, expires_at)
    SELECT {_OPEN_ID}, lpad(to_hex(number % {USED_BY}), 32, '0')::uuid,
        sha256(('open' || number)::bytea), 'znz_', 1, 'full', 1, {_ID}, {_NOW},
        CASE WHEN number <= {ACTIVE} THEN {_NOW} - interval '30 minutes' END,
        CASE WHEN number <= {ACTIVE} THEN {_NOW} + interval '30 minutes' END
    FROM generate_series(1, {ACTIVE + UNUSED}) AS number
    """,
    f"""
    INSERT INTO gateway_sessions (id, token_id, device_hash, device_hint, started_at, last_activity, request_count,
        bytes_in, bytes_out)
    SELECT {_OPEN_ID}, {_OPEN_ID}, '\\x01', 'device',
        {_NOW}, {_NOW}, 1, 1, 1
    FROM generate_series(1, {SESSIONS}) AS number
    """,
    f"""
    INSERT INTO payments (id, user_id, provider, status, amount_znc, amount, currency, return_url, next_check_at,
        created_at)
    SELECT {_OPEN_ID}, {_ID}, 'mock', 'pending', 1, 10, 'RUB', 'https://example.com/',
        {_NOW} - CASE WHEN number <= {STUCK} THEN interval '16 minutes' ELSE interval '1 minute' END,
        {_NOW} - interval '1 hour' * number / {PENDING}
    FROM generate_series(1, {PENDING}) AS number
    """,
)
_LOOKS: dict[str, Callable[[Connection], Awaitable[object]]] = {
    "active tokens": partial(queries.count_active_tokens, now=NOW),
    "unused tokens": queries.count_unused_tokens,
    "open sessions": queries.count_open_sessions,
    "active users": queries.count_active_users,
    "users": queries.count_users,
    "pending payments": partial(
        queries.find_pending_payments,
        unchecked_since=NOW - timedelta(minutes=15),
        begun_before=NOW - timedelta(days=8),
    ),
    "estimate of tokens": partial(queries.estimate_tokens, now=NOW),
    "estimate of sessions": queries.estimate_open_sessions,
}


@pytest.fixture
async def filled(cluster: Cluster, fresh_database: str) -> AsyncIterator[Connection]:
    async with filled_database(cluster, fresh_database, *past(1, HISTORY), *_PRESENT, "VACUUM") as conn:
        yield conn


async def _cost_of(conn: Connection, mode: str) -> dict[str, int]:
    """Pages that each statement looks at, once none of them is found to read a table from its start."""
    cost = {}
    for name, look in _LOOKS.items():
        async with conn.transaction():
            await queries.walk_indexes_only(conn)
            plan = await explain(conn, mode, partial(look, conn))
        assert "Seq Scan" not in plan.text, f"{name}, {mode}:\n{plan.text}"
        assert "Bitmap" not in plan.text, f"{name}, {mode}:\n{plan.text}"
        cost[name] = plan.buffers
    return cost


async def test_its_cost_does_not_grow_with_what_is_stored(filled: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "EXACT_ROWS", 10_000)  # as for a table of five times as many rows
    monkeypatch.setattr(queries, "SAMPLE_PAGES", 300)
    before = {mode: await _cost_of(filled, mode) for mode in PLAN_MODES}
    for statement in (*past(HISTORY + 1, 3 * HISTORY), "VACUUM", "ANALYZE"):
        await filled.execute(statement)
    for mode in PLAN_MODES:
        after = await _cost_of(filled, mode)
        for name, pages in after.items():
            assert pages <= 1.5 * before[mode][name] + 20, f"{name}, {mode}: {before[mode][name]}, then {pages}"
        assert sum(after.values()) < 10_000  # of some 20,000 of the tables


async def test_it_is_exact_up_to_the_bound_and_near_the_truth_above(
    cluster: Cluster,
    fresh_database: str,
    filled: Connection,
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await filled.execute(
        "UPDATE access_tokens SET activated_at = now(), expires_at = now() + interval '1 hour' "
        "WHERE ended_at IS NULL AND expires_at IS NOT NULL"
    )
    await filled.execute(
        "UPDATE payments SET created_at = created_at + (now() - $1), "
        "next_check_at = next_check_at + (now() - $1) WHERE status = 'pending'",
        NOW,
    )
    metered_at = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
    batch_id = UUID(int=int(metered_at.timestamp() * 1000) << 80)
    await filled.execute(
        "INSERT INTO usage_batches SELECT $1, id, user_id, $2, 'served', 1, 1, 1 FROM access_tokens LIMIT 3",
        batch_id,
        metered_at,
    )
    async with open_context(Settings.from_env({**env, **cluster.settings_env(fresh_database)})) as ctx:
        first = await _census(ctx)
        oldest_s = ctx.now().timestamp() - number(first, "oldest_payment_at")
        monkeypatch.setattr(queries, "EXACT_ROWS", 1_000)
        monkeypatch.setattr(queries, "EXACT_SESSIONS", 300)
        second = await _census(ctx)
        monkeypatch.setattr(queries, "SAMPLE_PAGES", 800)  # half of the tokens', all of the sessions'
        third = await _census(ctx)
    assert [first[name] for name in ("active_tokens", "unused_tokens", "open_sessions", "active_users")] == [
        ACTIVE,
        UNUSED,
        SESSIONS,
        USED_BY,
    ]
    assert first["users"] == HISTORY  # estimated, and exact: the table was just analysed
    assert (first["pending_payments"], first["stuck_payments"]) == (PENDING, STUCK)
    assert number(first, "oldest_usage_at") == metered_at.timestamp()
    assert oldest_s == pytest.approx(3600, abs=60)
    assert number(first, "database_bytes") > 20_000_000
    assert number(first, "database_max_connections") > number(first, "database_idle") >= 0
    assert 0 < number(first, "redis_bytes") < number(first, "redis_max_bytes")
    # All pages of so small a table are in the sample: what is estimated is right, and not the bound.
    assert (second["active_tokens"], second["unused_tokens"], second["open_sessions"]) == (ACTIVE, UNUSED, SESSIONS)
    assert second["active_users"] == pytest.approx(USED_BY * SESSIONS / 300, rel=0.5)
    assert number(third, "active_tokens") == pytest.approx(ACTIVE, rel=0.67)


def number(document: JsonObject, key: str) -> float:
    value = document[key]
    assert isinstance(value, int | float)
    return value


async def _census(ctx: Context) -> JsonObject:
    await take_census(ctx)
    async with ctx.connection() as conn:
        return (await facts.read_all(conn))["gauges"][1]
