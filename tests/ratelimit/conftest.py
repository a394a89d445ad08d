"""A plain client of the worker's Valkey."""

from collections.abc import Iterator

import pytest
import redis as redis_py


@pytest.fixture(scope="session")
def ring_client(redis_env: dict[str, str]) -> Iterator["redis_py.Redis"]:
    """A synchronous client."""
    client = redis_py.Redis(
        host=redis_env["REDIS_HOST"],
        port=int(redis_env["REDIS_PORT"]),
        password=redis_env["REDIS_PASSWORD"] or None,
        db=int(redis_env.get("REDIS_DB", "0")),
    )
    yield client
    client.close()
