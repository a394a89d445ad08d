"""`zenzefi doctor`: looks at each dependency as this installation would use it, and says how to mend what is wrong."""

import asyncio
import resource
import time
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from enum import StrEnum

import asyncpg
from aiohttp import http_parser
from redis.asyncio import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.exceptions import RedisError, ResponseError

from zenzefi.errors import DatabaseUnavailable, RedisUnavailable
from zenzefi.health.probes import probe_upstream
from zenzefi.infra import migrations
from zenzefi.infra.db import Connection, open_database
from zenzefi.infra.http import open_upstream
from zenzefi.infra.queue import JobQueue, QueueState
from zenzefi.infra.redis import plain_client, queue_client
from zenzefi.infra.storage import Storage, StorageError
from zenzefi.jobs import Queue
from zenzefi.mail import delivery
from zenzefi.secret_key import WELL_KNOWN_SECRETS
from zenzefi.settings import Settings, SettingsError
from zenzefi.upkeep_settings import MailEncryption

OLDEST_POSTGRES = 14
MAX_CLOCK_OFFSET_S = 1.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# The gateway may hold two connections for each request under way.
MIN_OPEN_FILES = 4096
_STORAGE_TIMEOUT_S = 10


class Verdict(StrEnum):
    """How a dependency was found."""

    OK = "ok"
    WARN = "warn"
    """Works, and something about it will hurt one day."""
    FAIL = "fail"
    """Does not work, or breaks a promise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One dependency as it was found; `fix` is empty when there is nothing to mend."""

    name: str
    verdict: Verdict
    detail: str
    fix: str = ""


async def examine(environ: Mapping[str, str] | None = None) -> list[Finding]:
    """Look at everything. Never raises for what it finds; changes nothing."""
    machine = [_check_parser(), _check_open_files()]
    try:
        settings = Settings.from_env(environ)
    except SettingsError as error:
        return [_fail("settings", str(error), "Correct the variable; README.md lists them all."), *machine]
    groups = await asyncio.gather(
        _check_postgres(settings),
        _check_redis(settings),
        _check_queue(settings),
        _check_storage(settings),
        _check_upstream(settings),
        _check_mail(settings),
    )
    return [*_check_settings(settings), *(finding for group in groups for finding in group), *machine]


def _check_settings(settings: Settings) -> list[Finding]:
    findings = [_ok("settings", f"environment {settings.environment}")]
    if settings.is_development and settings.host not in LOOPBACK:
        detail = f"environment development on {settings.host}: whoever reaches it can top up for nothing"
        findings = [_warn("settings", detail, "Set ENVIRONMENT=production, or HOST=127.0.0.1.")]
    if settings.secret_key.lower() in WELL_KNOWN_SECRETS:
        fix = "Make one with: openssl rand -hex 32"
        findings.append(_warn("secret key", "SECRET_KEY is a well-known example", fix))
    else:
        findings.append(_ok("secret key", f"{len(settings.secret_key.encode())} bytes"))
    return findings


async def _check_postgres(settings: Settings) -> list[Finding]:
    try:
        async with open_database(settings) as database, database.connection() as conn:
            return [
                await _check_version(conn),
                await _check_schema(settings),
                await _check_privileges(conn, settings),
                await _check_partitions(conn),
                await _check_clock(conn),
            ]
    except (DatabaseUnavailable, asyncpg.PostgresError) as error:
        return [_fail("postgresql", str(error), "Start it, or correct the POSTGRES_… variables.")]


async def _check_version(conn: Connection) -> Finding:
    number = int(await conn.fetchval("SELECT current_setting('server_version_num')"))
    detail = f"version {number // 10_000}.{number % 10_000}"
    if number // 10_000 < OLDEST_POSTGRES:
        return _fail("postgresql", detail, f"Upgrade PostgreSQL to {OLDEST_POSTGRES} or newer.")
    return _ok("postgresql", detail)


async def _check_schema(settings: Settings) -> Finding:
    try:
        await asyncio.to_thread(migrations.check, settings)
    except migrations.MigrationError as error:
        return _fail("schema", str(error), "zenzefi migrate up")
    return _ok("schema", f"at head, {len(migrations.expected_ids())} migrations")


async def _check_privileges(conn: Connection, settings: Settings) -> Finding:
    """The application adds to the ledger and the audit log; nothing of it may alter or remove their rows."""
    rows = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = ANY ($1) "
        "AND (has_table_privilege(oid, 'UPDATE, DELETE, TRUNCATE') OR has_any_column_privilege(oid, 'UPDATE'))",
        list(migrations.HISTORY_TABLES),
    )
    if not rows:
        return _ok("privileges", f"{settings.postgres_user} can only add to the ledger and the audit log")
    detail = f"{settings.postgres_user} can alter {', '.join(sorted(row['relname'] for row in rows))}"
    fix = (
        "Let the application log in as a role that is neither their owner nor a superuser (POSTGRES_USER), name the "
        "owner in POSTGRES_OWNER_USER, and run: zenzefi migrate up"
    )
    return _warn("privileges", detail, fix) if settings.is_development else _fail("privileges", detail, fix)


async def _check_partitions(conn: Connection) -> Finding:
    missing = await conn.fetch(
        "SELECT c.relname FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid "
        "WHERE c.relnamespace = 'public'::regnamespace AND to_regclass(format('public.%I', c.relname || "
        "to_char((now() AT TIME ZONE 'UTC') + interval '1 month', '_YYYY_MM'))) IS NULL"
    )
    if missing:
        detail = f"next month's are missing: {', '.join(sorted(row['relname'] for row in missing))}"
        return _warn("partitions", detail, "Run a worker (zenzefi worker): it makes them each day.")
    return _ok("partitions", "made ahead")


async def _check_clock(conn: Connection) -> Finding:
    asked = time.time()
    theirs = (await conn.fetchval("SELECT clock_timestamp()")).timestamp()
    offset_s = theirs - (asked + time.time()) / 2
    detail = f"the database's is {offset_s:+.3f} s from this machine's"
    if abs(offset_s) > MAX_CLOCK_OFFSET_S:
        fix = "Synchronise both machines with NTP. Tokens go by the database's clock; jobs and logs go by this one."
        return _warn("clock", detail, fix)
    return _ok("clock", detail)


async def _check_redis(settings: Settings) -> list[Finding]:
    try:
        async with aclosing(plain_client(settings)) as client:
            info = await client.info()
            cluster = await _check_cluster(
                client, found=bool(info.get("cluster_enabled")), wanted=settings.redis_cluster
            )
    except (RedisError, OSError) as error:
        address = f"{settings.redis_host}:{settings.redis_port}"
        return [_fail("redis", f"{address}: {error}", "Start it, or correct the REDIS_… variables.")]
    return [_ok("redis", _version(info)), *cluster, _check_eviction("redis eviction", info)]


async def _check_cluster(client: "Redis", *, found: bool, wanted: bool) -> list[Finding]:
    if found != wanted:
        detail = "REDIS_HOST is a node of a cluster" if found else "REDIS_HOST is no node of a cluster"
        return [_fail("redis cluster", detail, f"Set REDIS_CLUSTER={str(found).lower()}, or name another server.")]
    if not found:
        return []
    state = await client.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
    served = int(state["cluster_slots_ok"])
    if state["cluster_state"] != "ok" or served < REDIS_CLUSTER_HASH_SLOTS:
        detail = f"{served} of {REDIS_CLUSTER_HASH_SLOTS} slots are served"
        return [_fail("redis cluster", detail, "CLUSTER NODES says which nodes are lost or which slots have none.")]
    with suppress(ResponseError):  # where a provider forbids CONFIG, nobody can know
        if (await client.config_get("cluster-require-full-coverage")).get("cluster-require-full-coverage") == "yes":
            detail = "one lost node stops all others (cluster-require-full-coverage)"
            fix = "CONFIG SET cluster-require-full-coverage no on every node, and in its configuration file."
            return [_warn("redis cluster", detail, fix)]
    return [_ok("redis cluster", f"{state['cluster_size']} nodes with slots")]


async def _check_queue(settings: Settings) -> list[Finding]:
    try:
        async with aclosing(queue_client(settings)) as client, aclosing(JobQueue(settings)) as queue:
            info = await client.info()
            state = await queue.read_state()
    except (RedisError, RedisUnavailable, OSError) as error:
        address = f"{settings.queue_redis_host}:{settings.queue_redis_port}"
        fix = "Start it, or correct the QUEUE_REDIS_… variables, whose defaults are those of REDIS_…."
        return [_fail("job queue", f"{address}: {error}", fix)]
    return [
        _ok("job queue", _version(info)),
        _check_eviction("job queue eviction", info),
        _check_persistence(info),
        _check_workers(state),
    ]


def _version(info: Mapping[str, object]) -> str:
    return f"version {info.get('valkey_version') or info.get('redis_version')}"


def _check_eviction(name: str, info: Mapping[str, object]) -> Finding:
    policy = str(info.get("maxmemory_policy"))
    if policy == "noeviction":
        return _ok(name, policy)
    detail = f"maxmemory-policy is {policy}: queued jobs, device leases and revocations may vanish"
    return _fail(name, detail, "CONFIG SET maxmemory-policy noeviction, and in its configuration file.")


def _check_persistence(info: Mapping[str, object]) -> Finding:
    if info.get("aof_enabled"):
        return _ok("redis persistence", "append-only file")
    detail = "no append-only file: queued jobs are forgotten when it restarts"
    return _warn("redis persistence", detail, "CONFIG SET appendonly yes, and in its configuration file.")


def _check_workers(state: Mapping[Queue, QueueState]) -> Finding:
    """Each queue has workers of its own, and what nobody takes out of a queue waits for ever."""
    missing = [queue for queue in Queue if not state[queue].workers]
    if not missing:
        return _ok("workers", ", ".join(f"{state[queue].workers} for {queue} jobs" for queue in Queue))
    undone = {
        Queue.DEFAULT: "nothing refreshes, closes or purges",
        Queue.HEAVY: "nothing is backed up, verified or archived",
    }
    detail = "; ".join(f"none for {queue} jobs: {undone[queue]}" for queue in missing)
    return _warn("workers", detail, "Start: " + ", ".join(f"zenzefi worker --queue {queue}" for queue in missing))


async def _check_storage(settings: Settings) -> list[Finding]:
    storage = Storage(settings.s3)
    if not storage.is_configured:
        return [_warn("s3", "not configured: there can be no backups", "Set S3_BUCKET and the other S3_… variables.")]
    try:
        async with asyncio.timeout(_STORAGE_TIMEOUT_S):
            await storage.check()
    except StorageError as error:
        return [_fail("s3", str(error), "Create the bucket, or correct the S3_… variables.")]
    except TimeoutError:
        return [_fail("s3", f"no answer in {_STORAGE_TIMEOUT_S} s", "Correct S3_ENDPOINT_URL, or start the store.")]
    return [_ok("s3", f"bucket {settings.s3.bucket}")]


async def _check_upstream(settings: Settings) -> list[Finding]:
    async with open_upstream(settings) as session:
        check = await probe_upstream(session, settings.upstream_url)
    if check.passed:
        return [_ok("upstream", settings.upstream_url)]
    detail = f"{settings.upstream_url}: {check.detail}"
    return [_warn("upstream", detail, "Start it or the VPN to it, or correct ZENZEFI_TARGET_URL.")]


async def _check_mail(settings: Settings) -> list[Finding]:
    mail, address = settings.mail, f"{settings.mail.host}:{settings.mail.port}"
    if not mail.host:
        return [_ok("mail", "off: SMTP_HOST is not set")]
    try:
        await delivery.check(settings)
    except delivery.MailServerUnusable as error:
        return [_fail("mail", f"{address}: {error}", "Correct the SMTP_… variables, or start the mail server.")]
    if mail.encryption is MailEncryption.NONE and mail.host not in LOOPBACK:
        return [_warn("mail", f"{address}: nothing is encrypted", "Set SMTP_ENCRYPTION=starttls, or tls.")]
    return [_ok("mail", f"{address}, encryption {mail.encryption}")]


def _check_parser() -> Finding:
    if http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy:
        return _ok("http parser", "aiohttp's C parser")
    fix = "Unset AIOHTTP_NO_EXTENSIONS, and install aiohttp from a wheel."
    return _fail("http parser", "aiohttp's C parser is not loaded: the slow one in Python serves", fix)


def _check_open_files() -> Finding:
    # The server raises its soft limit by itself, up to the hard one.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MIN_OPEN_FILES:
        return _warn("open files", f"{hard} per process", "ulimit -Hn 65536, or LimitNOFILE=65536 in the systemd unit.")
    return _ok("open files", "unlimited" if hard == resource.RLIM_INFINITY else f"{hard} per process")


def _ok(name: str, detail: str) -> Finding:
    return Finding(name=name, verdict=Verdict.OK, detail=detail)


def _warn(name: str, detail: str, fix: str) -> Finding:
    return Finding(name=name, verdict=Verdict.WARN, detail=detail, fix=fix)


def _fail(name: str, detail: str, fix: str) -> Finding:
    return Finding(name=name, verdict=Verdict.FAIL, detail=detail, fix=fix)
