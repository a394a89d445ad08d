"""Use cases of the gateway: admitting a request, starting its token's clock, following it, and telling its status."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

import structlog

from zenzefi.access import revocation
from zenzefi.access import service as access
from zenzefi.access.errors import TokenRejected
from zenzefi.access.models import TokenGrant
from zenzefi.access.revocation import Change
from zenzefi.access.scopes import scopes_allowing
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.errors import DatabaseUnavailable
from zenzefi.gateway.admission import Admissions, Scopes
from zenzefi.gateway.credentials import Credentials
from zenzefi.gateway.errors import AccessEnded, DeviceConflict, ScopeDenied, TooManyStreams
from zenzefi.gateway.flights import Flights
from zenzefi.gateway.metering import Meter
from zenzefi.gateway.models import Admission, Device, Outcome, StreamEnd, TokenStatus, Verdict
from zenzefi.gateway.paths import CanonicalPath
from zenzefi.gateway.streams import OpenStream, OpenStreams
from zenzefi.gateway.sweeps import EXPIRY_S, LEASES_S, RECHECK_S, StreamSweeps, sweep_for_ever
from zenzefi.gateway.tokens import LEASE_S, GrantCache
from zenzefi.infra.instruments import DEVICE_CONFLICTS, RATE_LIMIT_DECISIONS, TOKEN_CHECKS
from zenzefi.ratelimit.errors import LimitUnknown, RateLimitExceeded
from zenzefi.ratelimit.ring import LimitClass

_USABLE, _UNUSABLE, _MALFORMED, _UNKNOWN = map(TOKEN_CHECKS.labels, ("usable", "unusable", "malformed", "unknown"))

# Which scopes let a request through is remembered for paths of this length at most: 1 MB of them.
MAX_REMEMBERED_PATH_CHARS: Final = 256
_scopes_of = lru_cache(maxsize=2048)(scopes_allowing)

LAST_FLUSH_S: Final = 5.0  # what a process that stops waits for the database to take its last counters

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The gateway's state in one process."""

    ctx: Context
    admissions: Admissions
    streams: OpenStreams
    meter: Meter
    activations: Flights[bytes, TokenGrant]

    def hear(self, message: bytes) -> None:
        """Act on word of ended tokens or released devices."""
        try:
            change, token_hashes = revocation.parse_message(message)
        except ValueError:
            log.warning("message_not_understood", size=len(message))
            return
        if change is Change.REVOKED:
            self.admissions.revoke(token_hashes)
        else:
            self.admissions.forget(token_hashes)
            for token_hash in token_hashes:
                self.streams.end_all_of(token_hash, StreamEnd.DEVICE_RELEASED)


@asynccontextmanager
async def open_gateway(ctx: Context) -> AsyncIterator[Gateway]:
    """Start the gateway's background work in this process; at the end stop it and store the last counters."""
    streams = OpenStreams(limit=ctx.settings.max_streams_per_token)
    admissions = Admissions(ctx, cache=GrantCache(), streams=streams)
    meter = Meter(ctx, streams=streams)
    gateway = Gateway(ctx=ctx, admissions=admissions, streams=streams, meter=meter, activations=Flights())
    sweeps = StreamSweeps(ctx, admissions=admissions, streams=streams)
    ctx.samplers.append(streams.sample)
    subscription = ctx.redis.subscribe(revocation.CHANNEL, gateway.hear, admissions.forget_all)
    work = (
        admissions.refresh_for_ever(),
        meter.flush_for_ever(),
        sweep_for_ever(sweeps.end_expired, every_s=EXPIRY_S),
        sweep_for_ever(sweeps.recheck, every_s=RECHECK_S),
        sweep_for_ever(sweeps.renew_leases, every_s=LEASES_S),
    )
    tasks = [asyncio.get_running_loop().create_task(loop) for loop in work]
    try:
        yield gateway
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await subscription.aclose()
        await _flush_at_last(meter)


async def admit(gateway: Gateway, credentials: Credentials, *, method: str, path: CanonicalPath) -> Admission:
    """Let a request go upstream: its token is usable, its scope fits, and its device holds the token from now on.

    Nothing starts the token's clock here; see ``start_clock``.

    Raises:
        TokenRejected: the token cannot be used.
        ScopeDenied: it cannot be used for this; the device lease is left as it was.
        DeviceConflict: another device holds it.
        RateLimitExceeded: too many requests came with it.
        DatabaseUnavailable, LimitUnknown: nobody can know now.
    """
    text = path.path
    scopes = _scopes_of(method, text) if len(text) <= MAX_REMEMBERED_PATH_CHARS else scopes_allowing(method, text)
    token_hash, device, admissions = _require_hash(credentials.token_hash), credentials.device, gateway.admissions
    # Nearly always this process knows all that it takes, and nothing has to be awaited.
    verdict = admissions.remembered(token_hash, device, scopes)
    if verdict is None:
        verdict = await _judge(gateway, token_hash, device, scopes)
    grant = _require_usable(gateway, verdict.grant)
    if grant.scope not in scopes:
        gateway.meter.count_denied(grant)
        raise ScopeDenied(f"The scope {grant.scope} does not cover {method} {text}.")
    if verdict.held_by_other_ms:
        gateway.meter.count_denied(grant)
        DEVICE_CONFLICTS.labels().inc()
        # The second that a lease lasts longer is ours, not a part of what is promised.
        raise DeviceConflict(remaining_ms=min(verdict.held_by_other_ms, LEASE_S * 1000))
    if verdict.refusal is not None:
        gateway.meter.count_denied(grant)
        RATE_LIMIT_DECISIONS.labels(LimitClass.PROXY, "rejected").inc()
        raise verdict.refusal
    try:
        decision = admissions.spend(token_hash) or await admissions.charge(token_hash)
    except (RateLimitExceeded, LimitUnknown):
        gateway.meter.count_denied(grant)
        raise
    return tuple.__new__(Admission, (grant, device, verdict.confirmed_at, decision))  # the constructor is Python's


async def require_usable(gateway: Gateway, credentials: Credentials) -> None:
    """Check the token of a request that will be refused for another reason, which only its holder is told.

    Raises:
        TokenRejected: the token cannot be used.
        DatabaseUnavailable: nobody can know now.
    """
    verdict = await _judge(gateway, _require_hash(credentials.token_hash), credentials.device, ())
    gateway.meter.count_denied(_require_usable(gateway, verdict.grant))


class Following:
    """Keeps an admitted request among the open streams while it runs, and counts it at its end.

    Entering it raises TooManyStreams when as many of the token run already. Such a request stays charged to the rate
    limit, so that asking again and again helps nobody.
    """

    __slots__ = ("_gateway", "_stream")

    def __init__(self, gateway: Gateway, stream: OpenStream) -> None:
        """Take the request's account."""
        self._gateway = gateway
        self._stream = stream

    def __enter__(self) -> None:
        try:
            self._gateway.streams.open(self._stream)
        except TooManyStreams:
            self._gateway.meter.count_denied(self._stream.grant)
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        stream = self._stream
        if kind is not None and issubclass(kind, asyncio.CancelledError) and stream.end_reason is None:
            stream.outcome = Outcome.ABORTED
        self._gateway.streams.close(stream)
        self._gateway.meter.count(stream)


def grant_of_running(stream: OpenStream) -> TokenGrant | None:
    """What ``start_clock`` would give at once, nearly always; None where it has something to do or to refuse."""
    grant = stream.grant
    return grant if grant.activated_at is not None and stream.end_reason is None else None


async def start_clock(gateway: Gateway, stream: OpenStream, *, actor: Callable[[], Actor]) -> TokenGrant:
    """Start the clock of the stream's token unless it runs; the grant with its expiry.

    Call it once the upstream has answered, and before the client hears of that: only a request that was served starts
    the clock. However many first requests meet here, in however many processes, there is one activation.

    Raises:
        AccessEnded: the stream was ended meanwhile.
        TokenRejected: the token has ended meanwhile.
        DatabaseUnavailable: the clock could not be started; the answer must not be passed on.
    """
    _require_running(stream)
    if stream.grant.activated_at is not None:
        return stream.grant
    started = time.monotonic()
    try:
        grant = await gateway.activations.share(
            stream.grant.token_hash, lambda: _activate(gateway.ctx, stream.grant.token_id, actor())
        )
        if grant.token_hash != stream.grant.token_hash:  # rotated meanwhile: this string is dead
            raise TokenRejected
    except TokenRejected:
        stream.end(StreamEnd.REVOKED)
        raise
    await gateway.admissions.learn(grant, holder=stream.device, confirmed_at=started)
    _require_running(stream)
    return grant


async def tell_status(gateway: Gateway, *, token_hash: bytes | None, device: Device | None) -> TokenStatus:
    """What the holder of a token may know of it; neither its clock nor its lease is touched.

    Raises:
        TokenRejected: the token cannot be used.
        RateLimitExceeded: too many requests came with it.
        DatabaseUnavailable, LimitUnknown: nobody can know now.
    """
    token_hash = _require_hash(token_hash)
    try:
        found = await gateway.admissions.find(token_hash)
    except DatabaseUnavailable:
        _UNKNOWN.inc()
        raise
    grant, holder = found if found is not None else (None, None)
    grant = _require_usable(gateway, grant)
    decision = await gateway.admissions.charge(grant.token_hash)
    remaining_s = grant.duration_hours * 3600
    if grant.expires_at is not None:
        remaining_s = max(0, math.ceil((grant.expires_at - gateway.ctx.now()).total_seconds()))
    return TokenStatus(
        decision=decision,
        grant=grant,
        device_hint=None if holder is None else holder.hint,
        holds_device=None if device is None else holder is not None and holder.device_hash == device.device_hash,
        time_remaining_s=remaining_s,
    )


async def _judge(gateway: Gateway, token_hash: bytes, device: Device, scopes: Scopes) -> Verdict:
    try:
        return await gateway.admissions.judge(token_hash=token_hash, device=device, scopes=scopes)
    except DatabaseUnavailable:
        _UNKNOWN.inc()
        raise


def _require_hash(token_hash: bytes | None) -> bytes:
    if token_hash is None:  # it has no token's form: that costs neither Redis nor PostgreSQL anything
        _MALFORMED.inc()
        raise TokenRejected
    return token_hash


def _require_usable(gateway: Gateway, grant: TokenGrant | None) -> TokenGrant:
    if grant is None or (grant.expires_at is not None and grant.expires_at <= gateway.ctx.now()):
        _UNUSABLE.inc()
        raise TokenRejected
    _USABLE.inc()
    return grant


def _require_running(stream: OpenStream) -> None:
    if stream.end_reason is not None:
        raise AccessEnded(f"The token's use ended while the request ran: {stream.end_reason}.")


async def _activate(ctx: Context, token_id: UUID, actor: Actor) -> TokenGrant:
    try:
        return await access.activate(ctx, token_id=token_id, actor=actor)
    except DatabaseUnavailable:
        # The connection may have broken after the COMMIT took effect. An error for the client, and a clock that runs
        # nevertheless, is what must not be; so the second try either finds the clock running or starts it.
        return await access.activate(ctx, token_id=token_id, actor=actor)


async def _flush_at_last(meter: Meter) -> None:
    try:
        async with asyncio.timeout(LAST_FLUSH_S):
            # A connection may have broken since its last use, which the next one finds out; the second try has another.
            stored = await meter.flush() or await meter.flush()
    except TimeoutError:
        stored = False
    if not stored:
        log.error("usage_lost", reason="the database was away when the process stopped")
