"""Deciding about a request: from a lease where there is one, else by Redis, else by this process's own share."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from zenzefi.errors import RedisUnavailable
from zenzefi.infra.instruments import RATE_LIMIT_DECISIONS, RATE_LIMIT_DEGRADED, RATE_LIMIT_DEGRADED_TIME
from zenzefi.infra.redis import RedisClient
from zenzefi.ratelimit.errors import LimitUnknown, RateLimitExceeded
from zenzefi.ratelimit.ring import CHARGE, RESET, Charge, ChargeRequest, LimitClass, ring_key
from zenzefi.ratelimit.subject import Decision, Subject, Terms
from zenzefi.settings import RateLimit, Settings

# How long a charged permit may wait for its request: as long as the gateway believes what it knows of a token
# (zenzefi.gateway.tokens), so that one call each second renews both. Each permit comes back that much later, which in
# 60 s is 1.6 % of the rate; in short windows it is LEASE_PART of it, but long enough for the answer to come.
LEASE_S: Final = 1.0
LEASE_PART: Final = 20
SHORTEST_LEASE_S: Final = 0.1
# No process charges more than this part of a limit in advance; for a busy subject what is left of the portion before is
# charged as well, until the next one.
LEASE_SHARE: Final = 10
# Subjects remembered by a process, about 1 KB each when busy; those not seen for longest are forgotten first, and what
# they owe with them.
SUBJECTS: Final = 20_000
# How long Redis has to answer all requests again before it is taken to be back, and is told what it has missed.
QUIET_S: Final = 1.0
# Subjects told of at once: a millisecond of the event loop, and as much until the next.
REPORTS: Final = 32
REPORT_PAUSE_S: Final = 0.005

log = structlog.get_logger(__name__)


class ClassLimiter:
    """The limit of one class in one process."""

    def __init__(self, terms: Terms, *, redis: RedisClient, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take the class's terms."""
        self.limit_class = terms.limit_class
        self.policy = terms.policy
        self.is_degraded = False  # it decides by its own share, or did until a moment ago
        self._terms = terms
        self._redis = redis
        self._monotonic = monotonic
        self._window_us = round(terms.window_s * 1e6)
        self._subjects: OrderedDict[str, Subject] = OrderedDict()
        self._alone_at = 0.0
        self._degraded_counted_at = 0.0
        self._recovery: asyncio.Task[None] | None = None
        self._admitted, self._rejected, self._unknown = (
            RATE_LIMIT_DECISIONS.labels(terms.limit_class, outcome) for outcome in ("admitted", "rejected", "unknown")
        )
        self._degraded, self._degraded_time = (
            RATE_LIMIT_DEGRADED.labels(terms.limit_class),
            RATE_LIMIT_DEGRADED_TIME.labels(terms.limit_class),
        )

    async def admit(self, name: str) -> Decision:
        """Admit one request of a subject.

        Raises:
            RateLimitExceeded: the limit is reached.
            LimitUnknown: Redis is away and this process has no share of so small a limit.
        """
        subject = self._subject(name)
        try:
            while (decision := subject.spend(self._monotonic())) is None:
                subject.waiting += 1
                try:
                    answered = await self._charge_once(subject)
                finally:
                    subject.waiting -= 1
                if not answered:
                    decision = self._admit_alone(subject)
                    break
        except (RateLimitExceeded, LimitUnknown) as error:
            (self._rejected if isinstance(error, RateLimitExceeded) else self._unknown).inc()
            raise
        self._admitted.inc()
        return decision

    def spend(self, name: str) -> Decision | None:
        """Admit one request of a subject from its lease, as ``admit`` would at once; None where that would have to ask.

        Raises:
            RateLimitExceeded: Redis has said no a moment ago.
        """
        subject = self._subjects.get(name)
        if subject is None:
            return None
        self._subjects.move_to_end(name)
        try:
            decision = subject.spend(self._monotonic())
        except RateLimitExceeded:
            self._rejected.inc()
            raise
        if decision is not None:
            self._admitted.inc()
        return decision

    def request_if_due(self, name: str) -> ChargeRequest | None:
        """What to ask along with a call that is made anyway; None while there are permits, or a denial.

        The answer is to be passed to ``settle``. A name is not remembered before: it may be anybody's invention.
        """
        subject = self._subjects.get(name)
        if subject is None:
            return ChargeRequest(limit=self.policy.limit, window_us=self._window_us, want=1, least=1)
        now = self._monotonic()
        return subject.request(now) if subject.needs_charge(now) else None

    def is_busy(self, name: str) -> bool:
        """Whether a subject's next permits are worth being asked for before those that are here lapse."""
        subject = self._subjects.get(name)
        return subject is not None and subject.is_busy(self._monotonic())

    def request_ahead(self, name: str) -> ChargeRequest | None:
        """What to ask along with a call that no request waits for; the answer is to be passed to ``settle``."""
        now = self._monotonic()
        subject = self._subjects.get(name)
        return None if subject is None else subject.request_ahead(now)

    def settle(self, name: str, charge: Charge | None, request: ChargeRequest, *, sent_at: float) -> None:
        """Take in what the ring answered to a request that was sent at ``sent_at``; None: it was not asked."""
        if charge is not None:
            self._subject(name).settle(charge, request, sent_at=sent_at, now=self._monotonic())
        elif request.back:
            self._subject(name).restore(request)

    async def forgive(self, name: str, decision: Decision) -> None:
        """Take an admission back, as if it had not been asked for; what was asked of Redis stays counted without it."""
        subject = self._subject(name)
        subject.take_back(decision)
        if not decision.stamp:
            return
        request = ChargeRequest(limit=self.policy.limit, window_us=self._window_us, back=1, stamp=decision.stamp)
        try:
            await self._redis.eval(CHARGE, [subject.key], request.arguments())
        except RedisUnavailable:
            log.info("ratelimit_not_forgiven", limit_class=self.limit_class)

    async def require_room(self, name: str) -> None:
        """Refuse what ``admit`` would refuse, and charge nothing; without Redis it is for ``admit`` to say.

        Raises:
            RateLimitExceeded: the limit is reached.
        """
        subject = self._subjects.get(name)
        if subject is not None and subject.has_permits(self._monotonic()):
            return
        try:
            charge = await self.look(name)
        except RedisUnavailable:
            return
        if charge.free == 0:
            raise RateLimitExceeded(self.limit_class, self.policy, retry_after_s=charge.retry_after_s)

    async def look(self, name: str) -> Charge:
        """What is left to a subject, without asking for any of it.

        Raises:
            RedisUnavailable: nobody can know now.
        """
        request = ChargeRequest(limit=self.policy.limit, window_us=self._window_us, least=1)
        key = ring_key(self.limit_class, name)
        return Charge.parse(await self._redis.eval(CHARGE, [key], request.arguments()))

    async def reset(self, name: str) -> None:
        """Forget all admissions of a subject; processes that have just denied it follow within DENIAL_S.

        Raises:
            RedisUnavailable: they could not be forgotten.
        """
        await self._redis.eval(RESET, [ring_key(self.limit_class, name)], [self.policy.limit, self._window_us])
        self._subjects.pop(name, None)

    async def carry_over(self, old_name: str, new_name: str) -> None:
        """Copy a subject's ring for another name; without Redis it begins anew."""
        # Two calls, for the two keys may stand on different nodes of a cluster.
        try:
            ring = await self._redis.run("GET", ring_key(self.limit_class, old_name))
            if isinstance(ring, bytes):
                lifetime_ms = self._window_us // 1000 + 1000
                await self._redis.run("SET", ring_key(self.limit_class, new_name), ring, "PX", lifetime_ms)
        except RedisUnavailable:
            log.info("ratelimit_not_carried_over", limit_class=self.limit_class)

    async def aclose(self) -> None:
        """Stop waiting for Redis to come back."""
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.wait([self._recovery])

    def sample(self) -> None:
        """Set the gauge, and count for how long it has been degraded since the last time."""
        self._degraded.set(self.is_degraded)
        if self.is_degraded:
            now = self._monotonic()
            self._degraded_time.inc(max(0.0, now - self._degraded_counted_at))
            self._degraded_counted_at = now

    def _subject(self, name: str) -> Subject:
        subject = self._subjects.get(name)
        if subject is None:
            subject = self._subjects[name] = Subject(self._terms, name)
            if len(self._subjects) > SUBJECTS:
                self._subjects.popitem(last=False)
        else:
            self._subjects.move_to_end(name)
        return subject

    async def _charge_once(self, subject: Subject) -> bool:
        """Ask Redis, or join whoever asks already; whether it answered. Cancelling one caller leaves it running."""
        if subject.charging is None:
            subject.charging = asyncio.get_running_loop().create_task(self._charge(subject))
        return await asyncio.shield(subject.charging)

    async def _charge(self, subject: Subject) -> bool:
        try:
            await asyncio.sleep(0)  # let the others of this turn of the event loop be counted as waiting
            sent_at = self._monotonic()
            if subject.has_permits(sent_at):
                return True  # they came with another call
            request = subject.request(sent_at)
            reply = await self._redis.eval(CHARGE, [subject.key], request.arguments())
        except RedisUnavailable:
            return False
        finally:
            subject.charging = None
        subject.settle(Charge.parse(reply), request, sent_at=sent_at, now=self._monotonic())
        return True

    def _admit_alone(self, subject: Subject) -> Decision:
        now = self._alone_at = self._monotonic()
        if self._recovery is None:
            self.is_degraded = True
            self._degraded_counted_at = now
            log.warning("ratelimit_degraded", limit_class=self.limit_class, share=self._terms.share)
            self._recovery = asyncio.get_running_loop().create_task(self._recover())
        return subject.spend_alone(now)

    async def _recover(self) -> None:
        """Wait until Redis answers again, and tell it what was admitted without it and what it may have lost."""
        try:
            while True:
                await asyncio.sleep(QUIET_S / 2)
                if self._monotonic() - self._alone_at >= QUIET_S and await self._report_all():
                    break
            log.info("ratelimit_restored", limit_class=self.limit_class)
        finally:
            self.sample()
            self.is_degraded = False
            self._recovery = None

    async def _report_all(self) -> bool:
        """Have the rings of all subjects hold what this process has admitted; False when Redis is still away."""
        try:
            # A replica that takes no writes would answer a PING.
            await self._redis.run("SET", f"znz:ratelimit:{self.limit_class}:written", 1, "PX", 1000)
            due = [subject for subject in self._subjects.values() if subject.heard_at < self._alone_at]
            for first in range(0, len(due), REPORTS):
                await asyncio.gather(*(self._report(subject) for subject in due[first : first + REPORTS]))
                await asyncio.sleep(REPORT_PAUSE_S)
        except RedisUnavailable:
            return False
        return True

    async def _report(self, subject: Subject) -> None:
        sent_at = self._monotonic()
        request = subject.report(sent_at)
        if subject.charging is None and (request.debt or request.history):
            charge = Charge.parse(await self._redis.eval(CHARGE, [subject.key], request.arguments()))
            subject.settle(charge, request, sent_at=sent_at, now=self._monotonic())


class Limiter:
    """All limits of one process; a class that is off has none."""

    def __init__(self, settings: Settings, redis: RedisClient) -> None:
        """Take the policies."""
        self._classes: dict[LimitClass, ClassLimiter] = {}
        for limit_class, policy in (
            (LimitClass.AUTH, settings.rate_limit_auth),
            (LimitClass.API, settings.rate_limit_api),
            (LimitClass.PROXY, settings.rate_limit_proxy),
        ):
            if policy is not None:
                terms = _terms(limit_class, policy, processes=settings.rate_limit_processes)
                self._classes[limit_class] = ClassLimiter(terms, redis=redis)

    def get(self, limit_class: LimitClass) -> ClassLimiter | None:
        """The limiter of a class, or None when the class is off."""
        return self._classes.get(limit_class)

    async def aclose(self) -> None:
        """Stop what runs in the background."""
        for limiter in self._classes.values():
            await limiter.aclose()

    @property
    def degraded(self) -> frozenset[LimitClass]:
        """The classes that count by themselves because Redis is away."""
        return frozenset(limit_class for limit_class, limiter in self._classes.items() if limiter.is_degraded)

    def sample(self) -> None:
        """Set the gauges."""
        for limiter in self._classes.values():
            limiter.sample()


def _terms(limit_class: LimitClass, policy: RateLimit, *, processes: int) -> Terms:
    # Only proxied requests come fast enough for a permit to be charged before its request is there.
    leases = limit_class is LimitClass.PROXY
    return Terms(
        limit_class=limit_class,
        policy=policy,
        lease_s=min(LEASE_S, max(SHORTEST_LEASE_S, policy.window_s / LEASE_PART)),
        most=max(1, policy.limit // (LEASE_SHARE * processes)) if leases else 1,
        share=policy.limit // processes,
    )
