"""A mail server, and an installation of its own that sends by it."""

from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest

from tests.mail.mail_server import MailServer, run_mail_server
from tests.support.servers import Cluster
from zenzefi.context import Context, open_context
from zenzefi.settings import Settings

Superuser: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def superuser(cluster: Cluster, fresh_database: str) -> AsyncIterator[Superuser]:
    """A connection to the outbox's database that may do what the application may not."""
    connection = await cluster.connect(fresh_database)
    yield connection
    await connection.close()


@pytest.fixture
async def mail_server() -> AsyncIterator[MailServer]:
    """A mail server that takes everything, and encrypts nothing."""
    async with run_mail_server() as server:
        yield server


@pytest.fixture
def mail_env(env: dict[str, str], fresh_database: str, mail_server: MailServer) -> dict[str, str]:
    """The variables of an installation with an outbox of its own."""
    return {
        **env,
        "POSTGRES_DB": fresh_database,
        "BACKEND_URL": "https://gateway.example",
        "PAYMENT_RETURN_HOSTS": "127.0.0.1",
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(mail_server.port),
        "SMTP_ENCRYPTION": "none",
        "MAIL_FROM": "Gatekeeper <gateway@mail.example>",
    }


@pytest.fixture
async def mail_ctx(mail_env: dict[str, str]) -> AsyncIterator[Context]:
    """A context of that installation."""
    async with open_context(Settings.from_env(mail_env)) as context:
        yield context
