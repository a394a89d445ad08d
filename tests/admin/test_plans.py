"""Every list of the admin API is served by an index, on its first page and on a deep one."""

from datetime import UTC, datetime
from functools import partial
from itertools import product
from uuid import UUID

from tests.support.plans import PLAN_MODES, filled_database, plan_of
from tests.support.servers import Cluster
from zenzefi.access.queries import select_tokens_of_anybody
from zenzefi.accounts.moderation_queries import select_users
from zenzefi.audit.queries import select_entries

_NOW = "'2026-11-23T08:00:00Z'::timestamptz"
_ID = "lpad(to_hex(number), 32, '0')::uuid"
USERS = f"""
    INSERT INTO users (id, email, username, password_hash, is_active, referral_code, created_at, updated_at)
    SELECT {_ID}, md5(number::text) || '@example.com', md5((-number)::text), '-', number % 200 > 0, number,
           {_NOW}, {_NOW}
    FROM generate_series(1, 20000) AS number
"""
TOKENS = f"""
    INSERT INTO access_tokens (id, user_id, token_hash, token_hint, duration_hours, scope, price,
                               purchase_transaction_id, created_at, ended_at, end_reason)
    SELECT {_ID}, lpad(to_hex(number % 100), 32, '0')::uuid, sha256(number::text::bytea), '', 1, 'full', 1,
           {_ID}, {_NOW}, CASE WHEN number % 100 <> 5 THEN {_NOW} END, CASE WHEN number % 100 <> 5 THEN 'expired' END
    FROM generate_series(1, 20000) AS number
"""
AUDIT_LOG = f"""
    INSERT INTO audit_log (id, at, actor_kind, actor_user_id, action, resource_type, resource_id)
    SELECT {_ID}, {_NOW}, 'user', lpad(to_hex(number % 100), 32, '0')::uuid, 'action.' || number % 50,
           'type-' || number % 20, number
    FROM generate_series(1, 20000) AS number
"""
PAGES = (UUID("ffffffff-ffff-ffff-ffff-ffffffffffff"), UUID(int=700))


STATES = (None, True, False)
FILTERS: tuple[tuple[UUID | None, str | None, str | None], ...] = (
    (None, None, None),
    (UUID(int=5), None, None),
    (None, "action.5", None),
    (None, None, "type-5"),
    (UUID(int=5), "action.5", "type-5"),
)


async def test_every_list_is_served_by_an_index(cluster: Cluster, fresh_database: str) -> None:
    async with filled_database(cluster, fresh_database, USERS, TOKENS, AUDIT_LOG) as conn:
        for mode, before in product(PLAN_MODES, PAGES):
            for prefix, is_active in product((None, "abc"), STATES):
                find = partial(select_users, conn, prefix=prefix, is_active=is_active, before=before, limit=21)
                plan = await plan_of(conn, mode, find)
                assert "Seq Scan" not in plan, (mode, prefix, is_active, plan)
                if prefix is None:
                    assert "Sort" not in plan
                else:
                    assert "users_email_prefix_idx" in plan, plan
                    assert "users_username_prefix_idx" in plan, plan
            for user_id, open_only in product((None, UUID(int=5)), (False, True)):
                look = partial(select_tokens_of_anybody, conn, user_id=user_id, open_only=open_only, before=before)
                plan = await plan_of(conn, mode, partial(look, limit=21, now=datetime.now(UTC)))
                assert "Seq Scan" not in plan, (mode, user_id, open_only, plan)
                assert user_id is not None or "Sort" not in plan, plan
            for user_id, action, resource_type in FILTERS:
                read = partial(select_entries, conn, user_id=user_id, action=action, resource_type=resource_type)
                plan = await plan_of(conn, mode, partial(read, before=before, limit=21))
                # All rows are in the default partition; the empty ones are read whole, which costs nothing.
                assert "Seq Scan on audit_log_default" not in plan, (mode, action, resource_type, plan)
