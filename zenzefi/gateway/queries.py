"""SQL of device leases, gateway sessions and metered usage."""

from collections.abc import Sequence
from datetime import datetime
from ipaddress import ip_interface
from typing import Final
from uuid import UUID

import asyncpg

from zenzefi.gateway.models import Device, GatewaySession, SessionUse, Usage
from zenzefi.infra.db import Connection

# Greater than every UUID of version 7: the place before the first page.
_LAST_UUID: Final = UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")


async def upsert_device_lease(
    conn: Connection, *, token_id: UUID, device: Device, now: datetime, lease_ms: int
) -> bool:
    """Take a free or expired lease, or renew the device's own; False when another device holds it.

    One statement: of any number of racing devices the row's lock lets one through, and the others see what it wrote.
    """
    row = await conn.fetchrow(
        """
        INSERT INTO device_leases AS lease (token_id, device_hash, expires_at)
        VALUES ($1, $2, $3::timestamptz + $4 * interval '1 millisecond')
        ON CONFLICT (token_id) DO UPDATE SET device_hash = excluded.device_hash, expires_at = excluded.expires_at
        WHERE lease.device_hash = excluded.device_hash OR lease.expires_at <= $3
        RETURNING token_id
        """,
        token_id,
        device.device_hash,
        now,
        lease_ms,
    )
    return row is not None


async def find_device_lease(conn: Connection, *, token_id: UUID, now: datetime) -> tuple[bytes, datetime] | None:
    """The hash of the device that holds a token, and until when; None when nobody does."""
    row = await conn.fetchrow(
        "SELECT device_hash, expires_at FROM device_leases WHERE token_id = $1 AND expires_at > $2", token_id, now
    )
    return None if row is None else (row["device_hash"], row["expires_at"])


async def find_device_hint(conn: Connection, *, token_id: UUID, device_hash: bytes) -> str | None:
    """The hint of a device that used a token, from the latest of its sessions."""
    row = await conn.fetchrow(
        """
        SELECT device_hint FROM gateway_sessions WHERE token_id = $1 AND device_hash = $2 ORDER BY id DESC LIMIT 1
        """,
        token_id,
        device_hash,
    )
    return None if row is None else row["device_hint"]


async def update_device_leases(
    conn: Connection, *, uses: Sequence[SessionUse], due_before: datetime, lease_s: float
) -> None:
    """Renew the leases that end before `due_before`, to `lease_s` seconds after their device's last request.

    Rows that somebody else has locked are left for the next time, so that no two processes wait for each other.
    """
    await conn.execute(
        """
        WITH due AS (
            SELECT lease.token_id, used.last_at
            FROM device_leases AS lease
            INNER JOIN unnest($1::uuid[], $2::bytea[], $3::timestamptz[]) AS used (token_id, device_hash, last_at)
                ON used.token_id = lease.token_id AND used.device_hash = lease.device_hash
            WHERE lease.expires_at < $4
            FOR UPDATE OF lease SKIP LOCKED
        )
        UPDATE device_leases AS lease
        SET expires_at = greatest(lease.expires_at, due.last_at + $5 * interval '1 second')
        FROM due WHERE lease.token_id = due.token_id
        """,
        [use.token_id for use in uses],
        [use.device.device_hash for use in uses],
        [use.last_at for use in uses],
        due_before,
        lease_s,
    )


async def insert_usage(
    conn: Connection, *, meter_id: UUID, batch_no: int, batch_id: UUID, usage: Sequence[Usage], now: datetime
) -> bool:
    """Store a meter's batch; False when it, or a later one of the same meter, was stored before.

    It is the meter's row that tells, not the batch's own rows: a roll-up may have taken those. Of two transactions with
    the same batch the second waits for that row, and then sees the number.
    """
    is_new: bool = await conn.fetchval(
        """
        WITH fresh AS (
            INSERT INTO usage_meters AS meter (meter_id, batch_no, at) VALUES ($1, $2, $3)
            ON CONFLICT (meter_id) DO UPDATE SET batch_no = excluded.batch_no, at = excluded.at
            WHERE meter.batch_no < excluded.batch_no
            RETURNING 1
        ), stored AS (
            INSERT INTO usage_batches (batch_id, token_id, user_id, hour, outcome, requests, bytes_in, bytes_out)
            SELECT $4, used.token_id, used.user_id, used.hour, used.outcome, used.requests, used.bytes_in,
                   used.bytes_out
            FROM unnest($5::uuid[], $6::uuid[], $7::timestamptz[], $8::text[], $9::bigint[], $10::bigint[],
                        $11::bigint[])
                AS used (token_id, user_id, hour, outcome, requests, bytes_in, bytes_out)
            WHERE EXISTS (SELECT FROM fresh)
        )
        SELECT EXISTS (SELECT FROM fresh)
        """,
        meter_id,
        batch_no,
        now,
        batch_id,
        [row.token_id for row in usage],
        [row.user_id for row in usage],
        [row.hour for row in usage],
        [row.outcome for row in usage],
        [row.requests for row in usage],
        [row.bytes_in for row in usage],
        [row.bytes_out for row in usage],
    )
    return is_new


async def upsert_sessions(conn: Connection, *, uses: Sequence[SessionUse], new_ids: Sequence[UUID]) -> int:
    """Add to the open session of each token and device, or open one with the id at the same place in `new_ids`.

    Returns how many were opened. Rows are locked in the order of token and device, by every process alike, so that no
    two wait for each other.
    """
    stored = await conn.fetch(
        """
        INSERT INTO gateway_sessions AS session
            (id, token_id, device_hash, device_hint, ip, user_agent, started_at, last_activity, request_count,
             bytes_in, bytes_out)
        SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::text[], $5::inet[], $6::text[], $7::timestamptz[],
                             $8::timestamptz[], $9::bigint[], $10::bigint[], $11::bigint[])
            AS used (id, token_id, device_hash, device_hint, ip, user_agent, started_at, last_activity, request_count,
                     bytes_in, bytes_out)
        ORDER BY used.token_id, used.device_hash
        ON CONFLICT (token_id, device_hash) WHERE ended_at IS NULL DO UPDATE SET
            last_activity = greatest(session.last_activity, excluded.last_activity),
            request_count = session.request_count + excluded.request_count,
            bytes_in = session.bytes_in + excluded.bytes_in,
            bytes_out = session.bytes_out + excluded.bytes_out
        RETURNING id
        """,
        new_ids,
        [use.token_id for use in uses],
        [use.device.device_hash for use in uses],
        [use.device.hint for use in uses],
        [use.ip for use in uses],
        [use.user_agent for use in uses],
        [use.first_at for use in uses],
        [use.last_at for use in uses],
        [use.requests for use in uses],
        [use.bytes_in for use in uses],
        [use.bytes_out for use in uses],
    )
    return len({row["id"] for row in stored} & set(new_ids))


async def update_outlived_sessions(conn: Connection, *, uses: Sequence[SessionUse], idle_s: float) -> None:
    """Close the open sessions of these tokens and devices that were idle for `idle_s` before this use began.

    Rows that somebody else has locked are left alone: they are in use, hence not idle.
    """
    await conn.execute(
        """
        WITH outlived AS (
            SELECT session.id
            FROM gateway_sessions AS session
            INNER JOIN unnest($1::uuid[], $2::bytea[], $3::timestamptz[]) AS used (token_id, device_hash, first_at)
                ON used.token_id = session.token_id AND used.device_hash = session.device_hash
            WHERE session.ended_at IS NULL AND session.last_activity < used.first_at - $4 * interval '1 second'
            FOR UPDATE OF session SKIP LOCKED
        )
        UPDATE gateway_sessions AS session SET ended_at = session.last_activity
        FROM outlived WHERE session.id = outlived.id
        """,
        [use.token_id for use in uses],
        [use.device.device_hash for use in uses],
        [use.first_at for use in uses],
        idle_s,
    )


async def update_idle_sessions(conn: Connection, *, idle_since: datetime, limit: int) -> int:
    """Close up to `limit` sessions without activity since `idle_since`, as of their last one; how many there were."""
    status = await conn.execute(
        """
        WITH idle AS (
            SELECT id FROM gateway_sessions
            WHERE ended_at IS NULL AND last_activity < $1
            ORDER BY last_activity LIMIT $2
            FOR UPDATE SKIP LOCKED
        )
        UPDATE gateway_sessions AS session SET ended_at = session.last_activity
        FROM idle WHERE session.id = idle.id
        """,
        idle_since,
        limit,
    )
    return _count(status)


async def delete_ended_sessions(conn: Connection, *, ended_before: datetime, begun_before: UUID, limit: int) -> int:
    """Delete up to `limit` sessions that ended before an instant, the oldest first; how many there were.

    `begun_before` is the least id of that instant. It keeps the walk along the primary key to the old sessions, of
    which only those few remain that were open then.
    """
    status = await conn.execute(
        """
        DELETE FROM gateway_sessions
        WHERE id = ANY (ARRAY(
            SELECT id FROM gateway_sessions
            WHERE id < $2 AND ended_at < $1
            ORDER BY id LIMIT $3
            FOR UPDATE SKIP LOCKED
        ))
        """,
        ended_before,
        begun_before,
        limit,
    )
    return _count(status)


async def select_sessions(conn: Connection, *, token_id: UUID, before: UUID | None, limit: int) -> list[GatewaySession]:
    """The sessions of a token, the newest first, from those whose id is below `before`."""
    rows = await conn.fetch(
        """
        SELECT id, device_hint, ip, user_agent, started_at, last_activity, ended_at, request_count, bytes_in, bytes_out
        FROM gateway_sessions WHERE token_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3
        """,
        token_id,
        before or _LAST_UUID,
        limit,
    )
    return [_session(row) for row in rows]


def _session(row: asyncpg.Record) -> GatewaySession:
    return GatewaySession(
        session_id=row["id"],
        device_hint=row["device_hint"],
        ip=None if row["ip"] is None else ip_interface(row["ip"]).ip,  # asyncpg gives an address or an interface
        user_agent=row["user_agent"],
        started_at=row["started_at"],
        last_activity=row["last_activity"],
        ended_at=row["ended_at"],
        request_count=row["request_count"],
        bytes_in=row["bytes_in"],
        bytes_out=row["bytes_out"],
    )


def _count(status: str) -> int:
    """The number of rows in a command tag such as "INSERT 0 3"."""
    return int(status.rpartition(" ")[2])
