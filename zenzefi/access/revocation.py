"""Word of ended tokens, from the process that ends one to all that may remember it.

PostgreSQL is the truth; what Redis and the processes remember of a token is a copy that lives for at most
GRANT_LIFETIME_MS. An announcement makes it shorter still: a tombstone takes the place of the copy in Redis, so that a
process which read PostgreSQL just before cannot put a stale one back, and a message tells every process to drop its own
and to end the open streams. Where Redis is away nothing is lost but time: the copies age out by themselves.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import Final

import structlog

from zenzefi.context import Context
from zenzefi.errors import RedisUnavailable
from zenzefi.infra.redis import Argument

CHANNEL: Final = "znz:tokens"
GRANT_LIFETIME_MS: Final = 5_000  # how long cached tokens go on when PostgreSQL is away, and the worst staleness
# Longer than any copy lives that was read before the tombstone was set.
TOMBSTONE_LIFETIME_MS: Final = 2 * GRANT_LIFETIME_MS
TOMBSTONE: Final = b"-"

_HASH_BYTES: Final = 32
_HASHES_PER_MESSAGE: Final = 500  # 16 KB: a ban of somebody with many tokens does not stall Redis or a subscriber
# A busy Redis misses a deadline of 50 ms now and then, and two misses open the circuit breaker for a second: the last
# try comes after that. Only then does Redis count as away.
_RETRY_PAUSES_S: Final = (0.05, 0.2, 0.4, 0.6)

log = structlog.get_logger(__name__)


class Change(Enum):
    """What happened to the tokens of a message; the value is its first byte."""

    REVOKED = b"R"
    DEVICE_RELEASED = b"D"


def grant_key(token_hash: bytes) -> str:
    """Where Redis keeps its copy of a token's grant, or the tombstone. The braces are a cluster's hash tag."""
    return f"znz:{{{token_hash.hex()}}}:grant"


def lease_key(token_hash: bytes) -> str:
    """Where Redis keeps which device holds a token; on the same cluster node as the grant."""
    return f"znz:{{{token_hash.hex()}}}:lease"


async def announce(ctx: Context, *, token_hashes: Iterable[bytes]) -> None:
    """Tell all processes that these tokens cannot be used any more (in this string). Call it after the commit.

    Trouble with Redis is logged, never raised: the tokens are ended either way, within GRANT_LIFETIME_MS.
    """
    for hashes in _chunks(token_hashes):
        commands = [("SET", grant_key(token_hash), TOMBSTONE, "PX", TOMBSTONE_LIFETIME_MS) for token_hash in hashes]
        try:
            await _tell(ctx, commands, Change.REVOKED, hashes)
        except RedisUnavailable:
            log.warning("revocation_not_announced", tokens=len(hashes))


async def welcome_back(ctx: Context, *, token_hashes: Iterable[bytes]) -> None:
    """Let these tokens be cached again, after their owner's ban was lifted. Call it after the commit.

    A tombstone only sends every request to PostgreSQL, so that nothing but speed is lost where Redis is away.
    """
    for hashes in _chunks(token_hashes):
        try:
            await asyncio.gather(*(ctx.redis.run("DEL", grant_key(token_hash)) for token_hash in hashes))
        except RedisUnavailable:
            log.warning("tombstones_not_removed", tokens=len(hashes))


async def release_device(ctx: Context, *, token_hash: bytes) -> None:
    """Free the device lease of a token in Redis and end the device's streams. Call it after the commit which deleted
    the lease in PostgreSQL.

    Trouble with Redis is logged, never raised: without Redis it is PostgreSQL that knows who holds a token.
    """
    try:
        await _tell(ctx, [("DEL", lease_key(token_hash))], Change.DEVICE_RELEASED, [token_hash])
    except RedisUnavailable:
        log.warning("device_release_not_announced")


def parse_message(message: bytes) -> tuple[Change, list[bytes]]:
    """What a message on CHANNEL says.

    Raises:
        ValueError: it is none of ours; whoever may write to Redis may also send anything here.
    """
    change, body = Change(message[:1]), message[1:]
    if len(body) % _HASH_BYTES:
        raise ValueError("the message does not end at the end of a hash")
    return change, [body[start : start + _HASH_BYTES] for start in range(0, len(body), _HASH_BYTES)]


async def _tell(
    ctx: Context, commands: Sequence[tuple[Argument, ...]], change: Change, token_hashes: Sequence[bytes]
) -> None:
    """Run the commands, then publish the message; all of it again when any of it fails, for it is idempotent.

    Raises:
        RedisUnavailable: the last try failed, too.
    """
    message = change.value + b"".join(token_hashes)
    for pause_s in _RETRY_PAUSES_S:
        try:
            await _tell_once(ctx, commands, message)
        except RedisUnavailable:
            await asyncio.sleep(pause_s)
        else:
            return
    await _tell_once(ctx, commands, message)


async def _tell_once(ctx: Context, commands: Sequence[tuple[Argument, ...]], message: bytes) -> None:
    # The commands first: whoever drops its copy at the message must not find the old one in Redis.
    await asyncio.gather(*(ctx.redis.run(*command) for command in commands))
    await ctx.redis.run("PUBLISH", CHANNEL, message)


def _chunks(token_hashes: Iterable[bytes]) -> Iterator[list[bytes]]:
    remaining = iter(token_hashes)
    while chunk := list(islice(remaining, _HASHES_PER_MESSAGE)):
        yield chunk
