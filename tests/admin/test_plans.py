"""Every list is served by an index, at a million postings: no table is read whole, and deep pages cost as first ones.

The figure is buffers and not time: it is the same on every machine, and whatever else the machine does.
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import TypeAlias
from uuid import UUID

import pytest

from tests.support.plans import PLAN_MODES, explain, filled_database
from tests.support.servers import Cluster
from zenzefi.access.bundle_queries import select_bundles
from zenzefi.access.queries import select_open_tokens, select_tokens, select_tokens_of_anybody
from zenzefi.accounts.moderation_queries import select_users
from zenzefi.accounts.referral_queries import select_referred_users
from zenzefi.audit.queries import select_entries
from zenzefi.gateway.queries import select_sessions
from zenzefi.infra.db import Connection
from zenzefi.wallet import queries as wallet
from zenzefi.wallet.models import TransactionType

POSTINGS = 1_000_000
TRANSACTIONS = POSTINGS // 2  # each has a posting of a wallet, and one of a system account
LONG_HISTORY = 200_000  # of one wallet; the others share the rest
ROWS = 50_000  # of each other table
LIMIT = 21  # a page of 20, and the one that tells whether more follow

# The owner of the long history, of one token in a hundred, of all open tokens, and so on.
OWNER = UUID(int=5)
_NOW = "'2026-11-23T08:00:00Z'::timestamptz"
_ID = "lpad(to_hex(number), 32, '0')::uuid"
_OWNER_OF_ROW = "lpad(to_hex(number % 100), 32, '0')::uuid"
_STEP_MS = 75 * 86_400_000 // TRANSACTIONS
# Ids as of two and a half months from the start of this one: the rows lie in three partitions.
_TIMED_ID = f"""
    (lpad(to_hex((extract(epoch FROM date_trunc('month', now())) * 1000)::bigint + number::bigint * {_STEP_MS}),
          12, '0')
    || lpad(to_hex(number), 20, '0'))::uuid
"""
_TYPE = "CASE WHEN number % 100 = 0 THEN 'refund' WHEN number % 3 = 0 THEN 'purchase' ELSE 'deposit' END"
# Two of five are the long history's.
_WALLET = "CASE WHEN number % 5 < 2 THEN 5 ELSE 1000 + number % 3000 END"
STATEMENTS = (
    """
    INSERT INTO ledger_accounts (id, kind, user_id, balance, entry_count, created_at)
    SELECT lpad(to_hex(number), 32, '0')::uuid, 'wallet', lpad(to_hex(number), 32, '0')::uuid, 0, 0, now()
    FROM generate_series(1, 5000) AS number
    """,
    f"""
    INSERT INTO ledger_transactions (id, transaction_type, description, created_at)
    SELECT {_TIMED_ID}, {_TYPE}, 'entry', {_NOW} FROM generate_series(1, {TRANSACTIONS}) AS number
    """,
    # One after the other, as they come; entry_no rises with them, which is all that the history asks of it.
    f"""
    INSERT INTO ledger_postings (transaction_id, account_id, transaction_type, amount, entry_no, balance_after)
    SELECT {_TIMED_ID},
        CASE WHEN side = 1 THEN lpad(to_hex({_WALLET}), 32, '0')::uuid
        ELSE '00000000-0000-7000-8000-000000000001' END,
        {_TYPE}, 1, CASE WHEN side = 1 THEN number END, CASE WHEN side = 1 THEN 0 END
    FROM generate_series(1, {TRANSACTIONS}) AS number, generate_series(1, 2) AS side
    """,
    f"""
    INSERT INTO users (id, email, username, password_hash, is_active, referral_code, referred_by, created_at,
                       updated_at)
    SELECT {_ID}, md5(number::text) || '@example.com', md5((-number)::text), '-', number % 200 > 0, number,
           CASE WHEN number % 10 = 0 THEN {_OWNER_OF_ROW.replace("number % 100", "5")} END, {_NOW}, {_NOW}
    FROM generate_series(1, {ROWS}) AS number
    """,
    f"""
    INSERT INTO referral_bonuses (referred_user_id, referrer_id, purchase_transaction_id, amount, state, created_at,
                                  settled_at)
    SELECT {_ID}, {_OWNER_OF_ROW.replace("number % 100", "5")}, {_ID}, 1, 'paid', {_NOW}, {_NOW}
    FROM generate_series(10, {ROWS}, 10) AS number
    """,
    f"""
    INSERT INTO access_tokens (id, user_id, token_hash, token_hint, duration_hours, scope, price,
                               purchase_transaction_id, created_at, ended_at, end_reason)
    SELECT {_ID}, {_OWNER_OF_ROW}, sha256(number::text::bytea), '', 1, 'full', 1, {_ID}, {_NOW},
           CASE WHEN number % 100 <> 5 THEN {_NOW} END, CASE WHEN number % 100 <> 5 THEN 'expired' END
    FROM generate_series(1, {ROWS}) AS number
    """,
    f"""
    INSERT INTO gateway_sessions (id, token_id, device_hash, device_hint, started_at, last_activity, ended_at,
                                  request_count, bytes_in, bytes_out)
    SELECT {_ID}, {_OWNER_OF_ROW}, '', '', {_NOW}, {_NOW}, {_NOW}, 1, 1, 1
    FROM generate_series(1, {ROWS}) AS number
    """,
    f"""
    INSERT INTO audit_log (id, at, actor_kind, actor_user_id, action, resource_type, resource_id)
    SELECT {_TIMED_ID}, {_NOW}, 'user', {_OWNER_OF_ROW}, 'action.' || number % 50, 'type-' || number % 20, number
    FROM generate_series(1, {TRANSACTIONS}, {TRANSACTIONS // ROWS - 1}) AS number
    """,
    """
    INSERT INTO bundles (id, name, description, token_count, duration_hours, scope, discount_percent, created_at,
                         updated_at)
    SELECT lpad(to_hex(number), 32, '0')::uuid, 'bundle ' || number, '', 5, 24, 'full', 10, now(), now()
    FROM generate_series(1, 5000) AS number
    """,
)

Page: TypeAlias = Callable[[Connection], Awaitable[object]]


def _timed_id(number: int) -> UUID:
    """The id of a row that has one of this month or the next."""
    now = datetime.now(UTC)
    month_ms = int(datetime(now.year, now.month, 1, tzinfo=UTC).timestamp() * 1000)
    return UUID(f"{month_ms + number * _STEP_MS:012x}{number:020x}")


_LAST = UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")
# Far down, with more than a page still to come of what is rarest.
_DEEP_ENTRY = TRANSACTIONS // 5
_DEEP = UUID(int=ROWS // 5)
_DEEP_TIMED = _timed_id(TRANSACTIONS * 3 // 5)
# All rows have a month, so that the default partitions are empty; to read those whole costs nothing.
_READ_WHOLE = re.compile(r"Seq Scan on (?!\w+_default\b)")
Lists: TypeAlias = Iterator[tuple[str, Page, Page]]


def _lists_of_users() -> Lists:
    """Each list that everybody has: its name, its first page, and a deep one."""
    entries = partial(wallet.select_entries, user_id=OWNER, limit=LIMIT)
    yield "transactions", partial(entries, before_entry_no=2**63 - 1), partial(entries, before_entry_no=_DEEP_ENTRY)
    for kind in (TransactionType.REFUND, TransactionType.PURCHASE):
        typed = partial(wallet.select_entries_of_type, user_id=OWNER, transaction_type=kind, limit=LIMIT)
        yield f"{kind}s", partial(typed, before_entry_no=2**63 - 1), partial(typed, before_entry_no=_DEEP_ENTRY)
    tokens = partial(select_tokens, user_id=OWNER, limit=LIMIT)
    yield "my tokens", partial(tokens, before=None), partial(tokens, before=_DEEP)
    open_tokens = partial(select_open_tokens, user_id=OWNER, limit=LIMIT, now=datetime.now(UTC))
    yield "my open tokens", partial(open_tokens, before=None), partial(open_tokens, before=_DEEP)
    sessions = partial(select_sessions, token_id=OWNER, limit=LIMIT)
    yield "sessions", partial(sessions, before=None), partial(sessions, before=_DEEP)
    referred = partial(select_referred_users, user_id=OWNER, limit=LIMIT)
    yield "referred users", partial(referred, before=_LAST), partial(referred, before=_DEEP)
    bundles = partial(select_bundles, limit=LIMIT)
    yield "bundles", partial(bundles, after=UUID(int=0)), partial(bundles, after=UUID(int=4000))


def _lists_of_superusers() -> Lists:
    for is_active in (None, True, False):
        users = partial(select_users, prefix=None, is_active=is_active, limit=LIMIT)
        yield f"users, active: {is_active}", partial(users, before=_LAST), partial(users, before=_DEEP)
    for user_id, open_only in product((None, OWNER), (False, True)):
        tokens = partial(
            select_tokens_of_anybody, user_id=user_id, open_only=open_only, limit=LIMIT, now=datetime.now(UTC)
        )
        yield f"tokens of {user_id}, open: {open_only}", partial(tokens, before=None), partial(tokens, before=_DEEP)
    filters = ((None, None, None), (OWNER, None, None), (None, "action.5", None), (None, None, "type-5"))
    for user_id, action, resource_type in filters:
        log = partial(select_entries, user_id=user_id, action=action, resource_type=resource_type, limit=LIMIT)
        yield (
            f"audit log {user_id, action, resource_type}",
            partial(log, before=_LAST),
            partial(log, before=_DEEP_TIMED),
        )


# One test, since filling the database is what takes the time.
@pytest.mark.timeout(300)
async def test_every_list_is_served_by_an_index(cluster: Cluster, fresh_database: str) -> None:
    async with filled_database(cluster, fresh_database, *STATEMENTS) as conn:
        assert await conn.fetchval("SELECT count(*) FROM ledger_postings") == POSTINGS
        assert await conn.fetchval("SELECT count(*) FROM ledger_postings WHERE account_id = $1", OWNER) >= LONG_HISTORY
        for mode in PLAN_MODES:
            await _assert_deep_pages_cost_as_first_ones(conn, mode)
            await _assert_search_uses_the_indices_of_prefixes(conn, mode)
            await _assert_all_filters_at_once_use_an_index(conn, mode)


async def _assert_deep_pages_cost_as_first_ones(conn: Connection, mode: str) -> None:
    for name, first, deep in (*_lists_of_users(), *_lists_of_superusers()):
        plans = [await explain(conn, mode, partial(page, conn)) for page in (first, deep)]
        for plan in plans:
            assert not _READ_WHOLE.search(plan.text), (name, plan.text)
            assert "Sort Method" not in plan.text, (name, plan.text)
            assert plan.rows == LIMIT, (name, plan.text)
        costs = sorted(plan.buffers for plan in plans)
        assert costs[1] <= 2 * costs[0], (name, *(plan.text for plan in plans))


async def _assert_search_uses_the_indices_of_prefixes(conn: Connection, mode: str) -> None:
    for is_active, before in product((None, True, False), (_LAST, _DEEP)):
        find = partial(select_users, conn, prefix="abc", is_active=is_active, before=before, limit=LIMIT)
        plan = await explain(conn, mode, find)
        assert not _READ_WHOLE.search(plan.text), plan.text
        assert "users_email_prefix_idx" in plan.text, plan.text
        assert "users_username_prefix_idx" in plan.text, plan.text


async def _assert_all_filters_at_once_use_an_index(conn: Connection, mode: str) -> None:
    for before in (_LAST, _DEEP_TIMED):
        read = partial(select_entries, conn, user_id=OWNER, action="action.5", resource_type="type-5", before=before)
        plan = await explain(conn, mode, partial(read, limit=LIMIT))
        assert not _READ_WHOLE.search(plan.text), plan.text
