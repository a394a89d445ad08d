"""The fixtures of all tests: real servers, the application in this process, and the product as its own processes."""

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from uuid import uuid4

import aiohttp
import hypothesis
import pytest
import structlog

from tests.support.examples import unhurried
from tests.support.people import Person, register
from tests.support.s3_faults import FaultyS3
from tests.support.servers import SECRET_KEY, Cluster, ClusterKeeper, valkey
from tests.support.serving import Served, serve
from zenzefi.context import Context, open_context
from zenzefi.devstack.seaweedfs import EmbeddedSeaweedFS
from zenzefi.devstack.upstream import run_upstream
from zenzefi.settings import Settings

BUCKET = "zenzefi-tests"

_KEEPER = pytest.StashKey[ClusterKeeper]()

# Of every test of hypothesis, whatever settings of its own it has.
hypothesis.settings.register_profile("unhurried", parent=unhurried)
hypothesis.settings.load_profile("unhurried")


def pytest_configure(config: pytest.Config) -> None:
    """Start PostgreSQL once, in the main process; it dies with it whatever happens."""
    # Into the standard library's logging, where pytest keeps it for the report of a test that fails.
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    keeper = ClusterKeeper()
    keeper.start()
    config.stash[_KEEPER] = keeper


def pytest_unconfigure(config: pytest.Config) -> None:
    keeper = config.stash.get(_KEEPER, None)
    if keeper is not None:
        keeper.stop()


@pytest.fixture(scope="session")
def worker_number() -> int:
    """0, 1, … by xdist worker."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The PostgreSQL cluster, with a superuser's access."""
    return Cluster.inherited()


@pytest.fixture(scope="session")
def redis_env(worker_number: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where this worker's Valkey is, as variables."""
    with valkey(worker_number, tmp_path_factory.mktemp("valkey")) as env:
        yield env


@pytest.fixture(scope="session")
async def database(cluster: Cluster, worker_number: int) -> AsyncIterator[str]:
    """This worker's database, by name."""
    name = f"zenzefi_test_{cluster.run}_gw{worker_number}"
    await cluster.clone(name)
    yield name
    await cluster.drop(name)


@pytest.fixture
async def fresh_database(cluster: Cluster) -> AsyncIterator[str]:
    """A migrated database that no other test has written to, by name."""
    name = f"zenzefi_test_{cluster.run}_{uuid4().hex[:8]}"
    await cluster.clone(name)
    yield name
    await cluster.drop(name)


@pytest.fixture(scope="session")
async def upstream_url() -> AsyncIterator[str]:
    """The demo upstream, a real HTTP server."""
    async with run_upstream() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedSeaweedFS]:
    """An S3 server with one bucket."""
    server = EmbeddedSeaweedFS(tmp_path_factory.mktemp("seaweedfs"), bucket=BUCKET)
    server.start()
    try:
        yield server
    finally:
        server.stop(timeout_s=1.0)


@pytest.fixture
async def faults(seaweedfs: EmbeddedSeaweedFS) -> AsyncIterator[FaultyS3]:
    """A proxy in front of the S3 server."""
    async with FaultyS3(seaweedfs.endpoint_url).run() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def env(cluster: Cluster, database: str, redis_env: dict[str, str], upstream_url: str) -> dict[str, str]:
    """The variables of a development installation on this worker's servers."""
    return {
        "ENVIRONMENT": "development",
        "SECRET_KEY": SECRET_KEY,
        "ZENZEFI_TARGET_URL": upstream_url,
        "BACKEND_URL": "http://127.0.0.1:8000",
        "WORKER_METRICS_PORT": "0",
        # All tests come from one address; those of the limits set their own.
        "RATE_LIMIT_AUTH": "off",
        "RATE_LIMIT_API": "off",
        "RATE_LIMIT_PROXY": "off",
        "MAX_STREAMS_PER_TOKEN": "1000",
        **cluster.settings_env(database),
        **redis_env,
    }


@pytest.fixture(scope="session")
def settings(env: dict[str, str]) -> Settings:
    """The same as Settings."""
    return Settings.from_env(env)


@pytest.fixture(scope="session")
async def ctx(settings: Settings) -> AsyncIterator[Context]:
    """A context of this process on the worker's servers."""
    async with open_context(settings) as context:
        yield context


@pytest.fixture(scope="session")
async def app_url(ctx: Context) -> AsyncIterator[str]:
    """The application in this process, on the product's own HTTP protocol."""
    from tests.support.inprocess import run_app  # the application imports every slice

    async with run_app(ctx) as url:
        yield url


@pytest.fixture
async def client(app_url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client of the application in this process."""
    async with aiohttp.ClientSession(app_url, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture
async def person(client: aiohttp.ClientSession) -> Person:
    """Somebody new, signed in."""
    return await register(client)


@pytest.fixture
def serving(env: dict[str, str]) -> Callable[..., AbstractAsyncContextManager[Served]]:
    """`async with serving(processes=4, PORT="…") as served`: the product as its own processes."""

    def start(*, processes: int = 2, **variables: str) -> AbstractAsyncContextManager[Served]:
        return serve({**env, **variables}, processes=processes)

    return start
