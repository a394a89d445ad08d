"""Redis or Valkey: the server of the hot path and that of the job queue."""

from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Final

from redis.asyncio import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from zenzefi.doctor.findings import Finding, fail, ok, warn
from zenzefi.errors import RedisUnavailable
from zenzefi.infra.queue import JobQueue, QueueState
from zenzefi.infra.redis import plain_client, queue_client
from zenzefi.jobs import Queue
from zenzefi.settings import Settings

# The oldest that anybody mends: older ones get no fixes any more.
OLDEST_REDIS: Final = (6, 2)
_CONNECT_TIMEOUT_S: Final = 2


async def check_redis(settings: Settings) -> list[Finding]:
    """Whether the server of the hot path can be used."""
    try:
        async with aclosing(plain_client(settings)) as client:
            info = await client.info()
            cluster = await _check_cluster(
                client, found=bool(info.get("cluster_enabled")), wanted=settings.redis_cluster
            )
    except (RedisError, OSError) as error:
        address = f"{settings.redis_host}:{settings.redis_port}"
        return [fail("redis", f"{address}: {error}", "Start it, or correct the REDIS_… variables.")]
    return [_check_version("redis", info), *cluster, _check_eviction("redis eviction", info)]


async def _check_cluster(client: "Redis", *, found: bool, wanted: bool) -> list[Finding]:
    if found != wanted:
        detail = "REDIS_HOST is a node of a cluster" if found else "REDIS_HOST is no node of a cluster"
        return [fail("redis cluster", detail, f"Set REDIS_CLUSTER={str(found).lower()}, or name another server.")]
    if not found:
        return []
    state = await client.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
    served = int(state["cluster_slots_ok"])
    if state["cluster_state"] != "ok" or served < REDIS_CLUSTER_HASH_SLOTS:
        detail = f"{served} of {REDIS_CLUSTER_HASH_SLOTS} slots are served"
        return [fail("redis cluster", detail, "CLUSTER NODES says which nodes are lost or which slots have none.")]
    with suppress(ResponseError):  # where a provider forbids CONFIG, nobody can know
        if (await client.config_get("cluster-require-full-coverage")).get("cluster-require-full-coverage") == "yes":
            detail = "one lost node stops all others (cluster-require-full-coverage)"
            fix = "CONFIG SET cluster-require-full-coverage no on every node, and in its configuration file."
            return [warn("redis cluster", detail, fix)]
    return [ok("redis cluster", f"{state['cluster_size']} nodes with slots")]


async def check_queue(settings: Settings) -> list[Finding]:
    """Whether the job queue can be used, and whether somebody takes out of it what is put in."""
    try:
        async with aclosing(queue_client(settings)) as client, aclosing(JobQueue(settings)) as queue:
            info = await client.info()
            state = await queue.read_state()
    except (RedisError, RedisUnavailable, OSError) as error:
        address = f"{settings.queue_redis_host}:{settings.queue_redis_port}"
        fix = "Start it, or correct the QUEUE_REDIS_… variables, whose defaults are those of REDIS_…."
        return [fail("job queue", f"{address}: {error}", fix)]
    return [
        _check_version("job queue", info),
        _check_eviction("job queue eviction", info),
        _check_persistence(info),
        _check_workers(state),
    ]


async def check_redis_for_production(settings: Settings) -> list[Finding]:
    """What production demands of both servers; nothing of one that cannot be reached, which is told elsewhere."""
    findings = []
    hot = (settings.redis_host, settings.redis_port)
    queue = (settings.queue_redis_host, settings.queue_redis_port)
    servers = {hot: ("redis", plain_client)}
    servers.setdefault(queue, ("job queue", queue_client))
    for (host, port), (name, make_client) in servers.items():
        with suppress(RedisError, OSError):
            async with aclosing(make_client(settings)) as client:
                info = await client.info()
            findings += [
                await _check_login(f"{name} login", host, port),
                _check_memory(f"{name} memory", info),
            ]
    return findings


def _check_version(name: str, info: Mapping[str, object]) -> Finding:
    version = str(info.get("valkey_version") or info.get("redis_version"))
    number = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if number < OLDEST_REDIS:
        return warn(name, f"version {version}", "Upgrade it: this version gets no security fixes any more.")
    return ok(name, f"version {version}")


def _check_eviction(name: str, info: Mapping[str, object]) -> Finding:
    policy = str(info.get("maxmemory_policy"))
    if policy == "noeviction":
        return ok(name, policy)
    detail = f"maxmemory-policy is {policy}: queued jobs, device leases and revocations may vanish"
    return fail(name, detail, "CONFIG SET maxmemory-policy noeviction, and in its configuration file.")


def _check_persistence(info: Mapping[str, object]) -> Finding:
    if info.get("aof_enabled"):
        return ok("redis persistence", "append-only file")
    detail = "no append-only file: queued jobs are forgotten when it restarts"
    return warn("redis persistence", detail, "CONFIG SET appendonly yes, and in its configuration file.")


def _check_workers(state: Mapping[Queue, QueueState]) -> Finding:
    """Each queue has workers of its own, and what nobody takes out of a queue waits for ever."""
    missing = [queue for queue in Queue if not state[queue].workers]
    if not missing:
        return ok("workers", ", ".join(f"{state[queue].workers} for {queue} jobs" for queue in Queue))
    undone = {
        Queue.DEFAULT: "nothing refreshes, closes or purges",
        Queue.HEAVY: "nothing is backed up, verified or archived",
    }
    detail = "; ".join(f"none for {queue} jobs: {undone[queue]}" for queue in missing)
    return warn("workers", detail, "Start: " + ", ".join(f"zenzefi worker --queue {queue}" for queue in missing))


async def _check_login(name: str, host: str, port: int) -> Finding:
    """Ask without a password: a server that answers would answer anybody."""
    stranger: Redis = Redis(host=host, port=port, socket_connect_timeout=_CONNECT_TIMEOUT_S, socket_timeout=5)
    try:
        async with aclosing(stranger):
            await stranger.ping()
    except (AuthenticationError, ResponseError):
        return ok(name, "asks for a password")
    except (RedisError, OSError) as error:
        return warn(name, f"{host}:{port} hung up on a stranger: {error}", "See whether it answers all clients.")
    fix = "Set requirepass there, and REDIS_PASSWORD (or QUEUE_REDIS_PASSWORD) here."
    return fail(name, f"{host}:{port} answers without a password", fix)


def _check_memory(name: str, info: Mapping[str, object]) -> Finding:
    used, most = int(str(info["used_memory"])), int(str(info["maxmemory"]))
    if not most:
        fix = "CONFIG SET maxmemory, below what the machine or the container has, and in its configuration file."
        return warn(name, "no maxmemory: when memory ends, the kernel kills the server", fix)
    detail = f"{used // 2**20} of {most // 2**20} MiB"
    if used > most * 0.9:
        return fail(
            name, f"{detail}: it will refuse writes", "CONFIG SET maxmemory higher, or give it a larger machine."
        )
    return ok(name, detail)
