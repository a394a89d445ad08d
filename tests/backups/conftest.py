"""A key pair, and a repository for each test."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.backups.keys import KeyPair
from tests.support.s3_faults import FaultyS3
from zenzefi.backups.encryption import make_identity
from zenzefi.backups.repository import Repository, open_repository
from zenzefi.context import Context, open_context
from zenzefi.devstack.binaries import find_postgres
from zenzefi.devstack.seaweedfs import EmbeddedSeaweedFS
from zenzefi.settings import Settings


@pytest.fixture(scope="session")
def age_keys() -> KeyPair:
    """Who the backups are encrypted for."""
    identity, recipient = make_identity()
    return KeyPair(identity=identity, recipient=recipient)


@pytest.fixture
def backup_env(
    env: dict[str, str], fresh_database: str, seaweedfs: EmbeddedSeaweedFS, age_keys: KeyPair
) -> dict[str, str]:
    """The variables of a migrated database without rows, and of an empty repository."""
    return {
        **env,
        "POSTGRES_DB": fresh_database,
        "POSTGRES_BIN": str(find_postgres() / "bin"),
        "S3_ENDPOINT_URL": seaweedfs.endpoint_url,
        "S3_BUCKET": seaweedfs.bucket,
        "S3_ACCESS_KEY": seaweedfs.access_key,
        "S3_SECRET_KEY": seaweedfs.secret_key,
        "BACKUP_PREFIX": f"test-{uuid4().hex[:12]}",
        "BACKUP_RECIPIENTS": age_keys.recipient,
        "BACKUP_IDENTITY": age_keys.identity,
    }


@pytest.fixture
def backup_settings(backup_env: dict[str, str]) -> Settings:
    """The same as Settings."""
    return Settings.from_env(backup_env)


@pytest.fixture
async def backup_ctx(backup_settings: Settings) -> AsyncIterator[Context]:
    """A context on them."""
    async with open_context(backup_settings) as context:
        yield context


@pytest.fixture
async def repository(backup_ctx: Context) -> AsyncIterator[Repository]:
    """The repository."""
    async with open_repository(backup_ctx.storage, backup_ctx.settings.backup) as opened:
        yield opened


@pytest.fixture
async def faulty_ctx(backup_env: dict[str, str], faults: FaultyS3) -> AsyncIterator[Context]:
    """A context whose S3 server is behind the proxy."""
    async with open_context(Settings.from_env({**backup_env, "S3_ENDPOINT_URL": faults.url})) as context:
        yield context
