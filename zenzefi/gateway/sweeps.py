"""What looks after open streams beside the requests: expiry, revocations that nobody heard of, and their leases."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from zenzefi.access import service as access
from zenzefi.context import Context
from zenzefi.errors import RedisUnavailable, Unavailable
from zenzefi.gateway import tokens
from zenzefi.gateway.admission import Admissions
from zenzefi.gateway.models import Device, StreamEnd
from zenzefi.gateway.streams import OpenStreams

EXPIRY_S: Final = 0.25  # a stream outlives its token by no more than a quarter of what is allowed
# With Redis away a revoked token's stream ends within five seconds: the age at which a token is checked again, the time
# between two looks, and a second for the query.
RECHECK_AGE_S: Final = 3.0
RECHECK_S: Final = 0.5
RECHECK_BATCH: Final = 1_000
LEASES_S: Final = 60.0  # a lease lasts five minutes: it survives three rounds that fail
LEASES_BATCH: Final = 100  # calls of Redis at a time, so that requests come in between

log = structlog.get_logger(__name__)


async def sweep_for_ever(sweep: Callable[[], Awaitable[None]], *, every_s: float) -> None:
    """Run a sweep again and again; trouble with one is logged and does not end it."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await sweep()
        except Unavailable as error:
            log.warning("sweep_skipped", sweep=sweep.__qualname__, error=error.code)
        except Exception:
            log.exception("sweep_failed", sweep=sweep.__qualname__)


class StreamSweeps:
    """The sweeps over one process's open streams."""

    def __init__(
        self,
        ctx: Context,
        *,
        admissions: Admissions,
        streams: OpenStreams,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the streams, who is told of ended tokens, and the clock that dates the checks."""
        self._ctx = ctx
        self._admissions = admissions
        self._streams = streams
        self._monotonic = monotonic

    async def end_expired(self) -> None:
        """End the streams whose token has expired, by the database's clock."""
        self._streams.end_expired(self._ctx.now())

    async def recheck(self) -> None:
        """Ask PostgreSQL about the tokens of streams that were not confirmed for a while; end those of ended tokens.

        This is how a revocation gets through when Redis does not pass it on. While PostgreSQL is away nothing can be
        revoked, and the streams go on.
        """
        started = self._monotonic()
        due = self._streams.unchecked_since(started - RECHECK_AGE_S)
        for start in range(0, len(due), RECHECK_BATCH):
            token_hashes = due[start : start + RECHECK_BATCH]
            confirmed_at = self._monotonic()
            grants = await access.find_grants(self._ctx, token_hashes=token_hashes)
            for grant in grants.values():
                self._streams.renew(grant, confirmed_at=confirmed_at)
            self._admissions.revoke([token_hash for token_hash in token_hashes if token_hash not in grants])

    async def renew_leases(self) -> None:
        """Keep the leases of devices whose streams go on without a new request, and end the streams of lost ones."""
        holders = self._streams.holders()
        for start in range(0, len(holders), LEASES_BATCH):
            await asyncio.gather(*(self._renew_lease(*holder) for holder in holders[start : start + LEASES_BATCH]))

    async def _renew_lease(self, token_hash: bytes, device: Device) -> None:
        try:
            lost_for_ms = await tokens.remember(self._ctx, token_hash=token_hash, holder=device)
        except RedisUnavailable:
            return  # then PostgreSQL's lease counts, which the metering renews
        if lost_for_ms:
            self._streams.end_all_of(token_hash, StreamEnd.DEVICE_CONFLICT, device=device)
