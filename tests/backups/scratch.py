"""What the tests do to scratch databases while a backup is tried."""

from collections.abc import Callable

import psycopg

from tests.support.servers import Cluster
from zenzefi.backups.models import Progress

_SCRATCH = "SELECT datname FROM pg_database WHERE datname LIKE %s"


def scratch_names(cluster: Cluster, database: str) -> list[str]:
    """The scratch databases beside this one."""
    with _connect(cluster, "postgres") as connection:
        patterns = (f"{database}_verifying_%", f"{database}_restoring_%")
        return [row[0] for pattern in patterns for row in connection.execute(_SCRATCH, [pattern]).fetchall()]


def altering(cluster: Cluster, database: str, statement: bytes) -> Callable[[Progress], None]:
    """Have somebody change what was restored, before it is compared."""

    def act(progress: Progress) -> None:
        if progress.phase == "comparing":
            (name,) = scratch_names(cluster, database)
            with _connect(cluster, name) as connection:
                assert connection.execute(statement).rowcount == 1

    return act


def _connect(cluster: Cluster, database: str) -> psycopg.Connection:
    return psycopg.connect(
        host=cluster.host, port=cluster.port, user=cluster.user, password=cluster.password, dbname=database
    )
