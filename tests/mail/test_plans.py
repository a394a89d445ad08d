"""What the jobs of mail ask costs by what they find, however much lies beside it: the plans of the statements."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.support.plans import PLAN_MODES, explain, filled_database
from tests.support.servers import Cluster
from zenzefi.access import expiry_queries
from zenzefi.infra.db import Connection
from zenzefi.mail import queries
from zenzefi.mail.models import MailKind

ROWS = 20_000
SOMEBODY = UUID(int=5)
# Of 8 KiB: for five rows and their entries in each index, where reading everything would take a thousand.
FEW_PAGES = 150

_USERS = """
    INSERT INTO users (id, email, username, password_hash, referral_code, created_at, updated_at)
    SELECT lpad(to_hex(n), 32, '0')::uuid, n || '@example.com', 'user' || n, '-', 'code' || n, now(), now()
    FROM generate_series(1, 500) AS n
"""
# All but some are over: sent ones, and tokens that were announced, or that are far from their end, or never activated.
_MAILS = f"""
    INSERT INTO mails (id, user_id, kind, event_id, details, state, due_at, give_up_at, created_at)
    SELECT
        lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(n % 500 + 1), 32, '0')::uuid, 'password_changed',
        lpad(to_hex(n), 32, '0')::uuid, '{{}}',
        CASE WHEN n % 2000 = 0 THEN 'sending' WHEN n % 200 = 0 THEN 'waiting' ELSE 'sent' END,
        now() + CASE WHEN n % 400 = 200 THEN 1 ELSE -1 END * interval '1 hour', now() + interval '1 day',
        now() - (31 * 86400 - n * 100) * interval '1 s'
    FROM generate_series(1, {ROWS}) AS n
"""
_TOKENS = f"""
    INSERT INTO access_tokens
        (id, user_id, token_hash, token_hint, duration_hours, scope, price, purchase_transaction_id, created_at,
         activated_at, expires_at, expiry_announced_at)
    SELECT
        id, lpad(to_hex(n % 500 + 1), 32, '0')::uuid, sha256(n::text::bytea), 'znz_abcd', hours, 'full', 1, id, now(),
        expires_at - hours * interval '1 hour', expires_at,
        CASE WHEN n % 1000 <> 0 AND expires_at < now() + interval '1 day' THEN now() END
    FROM generate_series(1, {ROWS}) AS n,
        LATERAL (SELECT
            lpad(to_hex(n), 32, '0')::uuid AS id,
            (ARRAY[1, 24, 720])[n % 3 + 1] AS hours,
            CASE WHEN n % 4 <> 0 THEN now() + n * interval '1 min' END AS expires_at
        ) AS made
"""


@pytest.mark.parametrize("mode", PLAN_MODES)
async def test_every_statement_reads_only_what_it_finds(cluster: Cluster, fresh_database: str, mode: str) -> None:
    async with filled_database(cluster, fresh_database, _USERS, _MAILS, _TOKENS) as conn:
        await conn.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        for name, run in _statements(conn).items():
            async with conn.transaction():
                plan = await explain(conn, mode, run)
            assert "Seq Scan" not in plan.text, (name, plan.text)
            assert plan.buffers <= FEW_PAGES, (name, plan.text)


def _statements(conn: Connection) -> dict[str, Callable[[], Awaitable[object]]]:
    now = datetime.now(UTC)
    return {
        "claim": lambda: queries.claim_mail(conn, now=now, until=now),
        "outbox": lambda: queries.get_outbox(conn, now=now, limit=10),
        "lost": lambda: queries.update_lost(conn, now=now, limit=5),
        "purge": lambda: queries.delete_mails(conn, created_before=now - timedelta(days=30), limit=5),
        "insert": lambda: queries.insert_mail(
            conn,
            mail_id=UUID(int=2**100),
            user_id=SOMEBODY,
            kind=MailKind.PASSWORD_CHANGED,
            event_id=UUID(int=2**100),
            details={},
            now=now,
            give_up_at=now,
            counted_from=now - timedelta(days=1),
            limit=20,
        ),
        "expiring": lambda: expiry_queries.mark_expiring(
            conn, duration_hours=720, now=now, until=now + timedelta(hours=1), limit=5
        ),
    }
