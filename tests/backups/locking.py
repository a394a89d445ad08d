"""Waiting for the backups' lock."""

import asyncio

from tests.support.servers import Cluster

# Of this database: the session that holds the backups' lock.
HOLDERS = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = $1)"
)


async def until_unlocked(cluster: Cluster, database: str) -> None:
    """Return once PostgreSQL has noticed that the process which held the lock is gone."""
    connection = await cluster.connect()
    try:
        async with asyncio.timeout(30):
            while await connection.fetch(HOLDERS, database):  # noqa: ASYNC110  PostgreSQL tells nobody
                await asyncio.sleep(0.02)
    finally:
        await connection.close()
