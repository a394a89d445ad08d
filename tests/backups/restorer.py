"""`python -m tests.backups.restorer BACKUP POINT`: restores and swaps in, and kills itself with SIGKILL at that point.

The points are the phases that the progress names; ``restored`` and ``before``, once a database was given such a name
in a transaction that is not committed yet; and ``committed``, once the new database is the live one.
"""

import asyncio
import os
import signal
import sys
from typing import Any
from unittest.mock import patch

import asyncpg

from zenzefi.backups.models import Progress
from zenzefi.backups.restoring import restore
from zenzefi.settings import Settings

backup_id, point = sys.argv[1:]
_settings = Settings.from_env()
_execute = asyncpg.Connection.execute
_statements: list[str] = []


def reach(here: str) -> None:
    if here == point:
        os.kill(os.getpid(), signal.SIGKILL)


async def execute(self: Any, query: str, *arguments: Any, **more: Any) -> str:
    status: str = await _execute(self, query, *arguments, **more)
    if query.startswith(("ALTER DATABASE", "COMMIT")):
        _statements.append(query)
    if "_restored_" in query.partition(" RENAME TO ")[2]:
        reach("restored")
    if "_before_" in query.partition(" RENAME TO ")[2]:
        reach("before")
    if _statements[-2:-1] and _statements[-2].endswith(f'TO "{_settings.postgres_db}"') and query == "COMMIT;":
        reach("committed")
    return status


def show(progress: Progress) -> None:
    reach(progress.phase)


if __name__ == "__main__":
    with patch.object(asyncpg.Connection, "execute", execute):
        asyncio.run(restore(_settings, backup_id=backup_id, swap=True, progress=show))
