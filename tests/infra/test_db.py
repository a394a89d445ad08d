"""The pool of connections when the server hangs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from zenzefi.errors import DatabaseUnavailable
from zenzefi.infra import db, lending
from zenzefi.settings import Settings


class _Way:
    """The way to the server; what is on it stops while `is_open` is not set."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.is_open = asyncio.Event()
        self.is_open.set()

    @asynccontextmanager
    async def settings(self) -> AsyncIterator[Settings]:
        """The settings by which the server is reached this way."""
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        async with server:
            yield replace(self._settings, postgres_server="127.0.0.1", postgres_port=server.sockets[0].getsockname()[1])

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._settings.postgres_server, self._settings.postgres_port)
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65_536):
                await self.is_open.wait()
                writer.write(piece)
        except ConnectionError:
            pass  # it was dropped, which is what is tested
        finally:
            writer.close()


async def test_query_that_is_given_up_while_the_server_hangs_costs_no_more_than_the_release(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "RELEASE_TIMEOUT_S", 0.2)
    way = _Way(settings)
    async with way.settings() as through, db.open_database(through) as database:
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
        way.is_open.clear()
        # Without a limit of its own it waits for the server's word on the query: COMMAND_TIMEOUT_S.
        async with asyncio.timeout(db.COMMAND_TIMEOUT_S / 2):
            with pytest.raises(DatabaseUnavailable):
                async with asyncio.timeout(0.1), database.connection() as connection:
                    await connection.fetchval("SELECT 1")
        way.is_open.set()
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 2") == 2
