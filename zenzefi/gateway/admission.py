"""Whether a token may be used, and by this device: asked of the process's memory, Redis and PostgreSQL in turn."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

import structlog

from zenzefi.access import revocation
from zenzefi.access import service as access
from zenzefi.access.models import TokenGrant
from zenzefi.access.revocation import GRANT_LIFETIME_MS
from zenzefi.context import Context
from zenzefi.errors import RedisUnavailable
from zenzefi.gateway import devices, tokens
from zenzefi.gateway.flights import Flights
from zenzefi.gateway.models import Device, Verdict
from zenzefi.gateway.streams import OpenStreams
from zenzefi.gateway.tokens import GrantCache, Recollection
from zenzefi.ratelimit.errors import RateLimitExceeded
from zenzefi.ratelimit.ring import LimitClass
from zenzefi.ratelimit.service import limiter_of, token_subject
from zenzefi.ratelimit.subject import Decision

Scopes: TypeAlias = tuple[str, ...]

# A copy in Redis is renewed in the background when half of its life is over: a token that is used every other second
# never waits for PostgreSQL.
REFRESH_MS: Final = GRANT_LIFETIME_MS // 2
# Renewals that are asked for in this time share one query: at 10,000 busy tokens, some 20 of 200 tokens each second.
REFRESH_PAUSE_S: Final = 0.05
REFRESH_BATCH: Final = 500

log = structlog.get_logger(__name__)


class Admissions:
    """The gateway's judge in one process."""

    def __init__(
        self,
        ctx: Context,
        *,
        cache: GrantCache,
        streams: OpenStreams,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the process's memory of tokens, and its open streams, which know of revocations."""
        self._ctx = ctx
        self._cache = cache
        self._streams = streams
        self._monotonic = monotonic
        self._flights: Flights[tuple[bytes, bytes, Scopes], Verdict] = Flights()
        self._limiter = limiter_of(ctx).get(LimitClass.PROXY)
        self._to_refresh: set[bytes] = set()
        self._refresh_asked = asyncio.Event()

    async def judge(self, *, token_hash: bytes, device: Device, scopes: Scopes) -> Verdict:
        """Find the token's grant, and take or renew the device's lease if the grant's scope is one of `scopes`.

        No I/O within a second of the last confirmation; else one call of Redis; else PostgreSQL.

        Raises:
            DatabaseUnavailable: only PostgreSQL could know, and it is away.
        """
        remembered = self.remembered(token_hash, device, scopes)
        if remembered is not None:
            return remembered
        while True:
            verdict = await self._flights.share(
                (token_hash, device.device_hash, scopes), lambda: self._confirm(token_hash, device, scopes)
            )
            # Else the token was revoked while the answer was under way, and may be older than that.
            if verdict.grant is None or not self._streams.revoked_since(token_hash, verdict.confirmed_at):
                return verdict

    async def charge(self, token_hash: bytes) -> Decision | None:
        """Charge one request to the token's rate limit; without I/O as long as permits charged in advance last.

        Raises:
            RateLimitExceeded: the limit is reached.
            LimitUnknown: Redis is away, and the limit is too small to be shared among the processes.
        """
        return None if self._limiter is None else await self._limiter.admit(token_subject(token_hash))

    def spend(self, token_hash: bytes) -> Decision | None:
        """Charge one request if a permit is there that was charged in advance; None: ``charge`` it.

        Raises:
            RateLimitExceeded: Redis has said no a moment ago.
        """
        return None if self._limiter is None else self._limiter.spend(token_subject(token_hash))

    def remembered(self, token_hash: bytes, device: Device, scopes: Scopes) -> Verdict | None:
        """What ``judge`` would answer without I/O; None where it needs some."""
        entry = self._cache.find(token_hash)
        if entry is None or self._streams.revoked_since(token_hash, entry.confirmed_at):
            return None
        grant = entry.grant
        is_holder = entry.holder is not None and entry.holder.device_hash == device.device_hash
        if grant is not None and grant.scope in scopes and not is_holder:
            return None
        if entry.verdict is None:
            entry.verdict = Verdict(grant=grant, confirmed_at=entry.confirmed_at)
        if entry.is_ageing and is_holder and not entry.is_renewed:
            entry.is_renewed = True
            self._renew(token_hash, device, scopes)
        return entry.verdict

    def _renew(self, token_hash: bytes, device: Device, scopes: Scopes) -> None:
        """Confirm again what is still believed, beside the requests that go on with it; a failure is the next one's."""
        if self._limiter is None or self._limiter.is_busy(token_subject(token_hash)):
            self._flights.start(
                (token_hash, device.device_hash, scopes),
                lambda: self._confirm(token_hash, device, scopes, is_ahead=True),
            )

    async def find(self, token_hash: bytes) -> tuple[TokenGrant, Device | None] | None:
        """The grant and the holder of a usable token, without touching its lease; None when it is not usable.

        Raises:
            DatabaseUnavailable: only PostgreSQL could know, and it is away.
        """
        started = self._monotonic()
        known = await self._recall(token_hash, None, ())
        grant = known.grant if known is not None else None
        if grant is None:
            grant = await access.find_grant(self._ctx, token_hash=token_hash)
            if grant is None:
                return None
            await self._remember(token_hash, grant, None, confirmed_at=started)
        if known is not None and known.holder is not None:
            return grant, known.holder
        return grant, await devices.find_holder(self._ctx, grant=grant)

    async def learn(self, grant: TokenGrant, *, holder: Device, confirmed_at: float) -> None:
        """Spread what PostgreSQL said at `confirmed_at`: to this process, its open streams, and Redis."""
        self._streams.renew(grant, confirmed_at=confirmed_at)
        self._cache.put(grant.token_hash, grant, holder=holder, confirmed_at=confirmed_at)
        await self._remember(grant.token_hash, grant, None, confirmed_at=confirmed_at)

    def revoke(self, token_hashes: Sequence[bytes]) -> None:
        """Forget what is known of tokens that have ended, and end their streams."""
        self.forget(token_hashes)
        self._streams.revoke(token_hashes)

    def forget(self, token_hashes: Iterable[bytes]) -> None:
        """Ask anew from now on."""
        for token_hash in token_hashes:
            self._cache.drop(token_hash)

    def forget_all(self) -> None:
        """Ask anew for every token."""
        self._cache.clear()

    async def refresh_for_ever(self) -> None:
        """Renew the copies in Redis that are about to end, beside the requests."""
        while True:
            await self._refresh_asked.wait()
            await asyncio.sleep(REFRESH_PAUSE_S)
            token_hashes = list(self._to_refresh)[:REFRESH_BATCH]
            self._to_refresh.difference_update(token_hashes)
            if not self._to_refresh:
                self._refresh_asked.clear()
            try:
                await self._refresh(token_hashes)
            except Exception as error:  # noqa: BLE001  nothing may end this loop; a request will ask again
                log.warning("grants_not_refreshed", tokens=len(token_hashes), error=repr(error))

    async def _refresh(self, token_hashes: list[bytes]) -> None:
        started = self._monotonic()
        grants = await access.find_grants(self._ctx, token_hashes=token_hashes)
        await asyncio.gather(
            *(self._remember(grant.token_hash, grant, None, confirmed_at=started) for grant in grants.values())
        )
        ended = [token_hash for token_hash in token_hashes if token_hash not in grants]
        if ended:  # and nobody said so, or it was not heard
            await revocation.announce(self._ctx, token_hashes=ended)

    async def _confirm(self, token_hash: bytes, device: Device, scopes: Scopes, *, is_ahead: bool = False) -> Verdict:
        started = self._monotonic()
        known = await self._recall(token_hash, device, scopes, is_ahead=is_ahead)
        if known is not None and known.grant is not None:
            grant: TokenGrant | None = known.grant
            loaded, lifetime_s = None, known.grant_ms / 1000
            if known.grant_ms < REFRESH_MS:
                self._to_refresh.add(token_hash)
                self._refresh_asked.set()
        else:
            grant = loaded = await access.find_grant(self._ctx, token_hash=token_hash)
            lifetime_s = tokens.CACHE_S
        held_by_other_ms, holder, refusal = 0, None, None
        if grant is not None and grant.scope in scopes:
            held_by_other_ms, refusal = await self._lease(grant, device, known)
            holder = device if held_by_other_ms == 0 and refusal is None else None
        if known is not None:
            renewed = known.grant is not None and known.holder is not None  # by the script itself
            lost_for_ms = await self._remember(token_hash, loaded, None if renewed else holder, confirmed_at=started)
            if lost_for_ms:
                held_by_other_ms, holder = lost_for_ms, None
        self._cache.put(token_hash, grant, holder=holder, confirmed_at=started, lifetime_s=lifetime_s)
        return Verdict(grant=grant, held_by_other_ms=held_by_other_ms, confirmed_at=started, refusal=refusal)

    async def _lease(
        self, grant: TokenGrant, device: Device, known: Recollection | None
    ) -> tuple[int, RateLimitExceeded | None]:
        """For how long another device holds the token, 0 when none does; and why this one does not hold it then."""
        if known is not None and known.holder is not None:
            return (known.lease_ms if known.holder.device_hash != device.device_hash else 0), None
        if self._limiter is not None:  # a request that is refused must not keep other devices out
            try:
                await self._limiter.require_room(token_subject(grant.token_hash))
            except RateLimitExceeded as refusal:
                # Redis may have lost the lease; then its holder comes before the limit, as everywhere.
                return await devices.held_by_other_ms(self._ctx, grant=grant, device=device), refusal
        return await devices.take_lease(self._ctx, grant=grant, device=device), None

    async def _recall(
        self, token_hash: bytes, device: Device | None, scopes: Scopes, *, is_ahead: bool = False
    ) -> Recollection | None:
        limiter, name = self._limiter if scopes else None, token_subject(token_hash)
        wanted = None
        if limiter is not None:
            wanted = limiter.request_ahead(name) if is_ahead else limiter.request_if_due(name)
        sent_at = self._monotonic()
        try:
            known = await tokens.recall(self._ctx, token_hash=token_hash, device=device, scopes=scopes, charge=wanted)
        except RedisUnavailable:
            return None
        if limiter is not None and wanted is not None:
            limiter.settle(name, known.charge, wanted, sent_at=sent_at)
        return known

    async def _remember(
        self, token_hash: bytes, grant: TokenGrant | None, holder: Device | None, *, confirmed_at: float
    ) -> int:
        if grant is None and holder is None:
            return 0
        try:
            return await tokens.remember(
                self._ctx,
                token_hash=token_hash,
                grant=grant,
                age_s=self._monotonic() - confirmed_at,
                holder=holder,
            )
        except RedisUnavailable:
            return 0  # PostgreSQL has said who holds the token
