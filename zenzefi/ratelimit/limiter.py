"""Deciding about a request: from a lease where there is one, else by Redis, else by this process's own share."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from zenzefi.errors import RedisUnavailable
from zenzefi.infra.redis import RedisClient
from zenzefi.ratelimit.errors import LimitUnknown, RateLimitExceeded
from zenzefi.ratelimit.ring import CHARGE, FORGIVE, LOOK, RESET, Charge, ChargeRequest, LimitClass, ring_key
from zenzefi.ratelimit.subject import Decision, Subject
from zenzefi.settings import RateLimit, Settings

# How long a charged permit may wait for its request. Longer leases ask Redis less often; each permit comes back that
# much later, which at 0.5 s in 60 s is 1 % of the rate.
LEASE_S: Final = 0.5
# A denial is believed this long without asking again, so that whoever hammers costs Redis nothing; a subject that an
# operator resets is let in again after it.
DENIAL_S: Final = 1.0
# No process charges more than this part of a limit in advance.
LEASE_SHARE: Final = 10
# Subjects remembered by a process, about 1 KB each when busy; those not seen for longest are forgotten first.
SUBJECTS: Final = 20_000

log = structlog.get_logger(__name__)


class ClassLimiter:
    """The limit of one class in one process."""

    def __init__(
        self,
        limit_class: LimitClass,
        policy: RateLimit,
        *,
        redis: RedisClient,
        processes: int,
        lease_s: float,
        most: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the policy, how long a permit is good for, and how many are charged in advance at most."""
        self.limit_class = limit_class
        self.policy = policy
        self._lease_s = lease_s
        self._most = most
        self.is_degraded = False
        self._redis = redis
        self._share = policy.limit // processes
        self._monotonic = monotonic
        self._window_s = policy.window_s + lease_s
        self._subjects: OrderedDict[str, Subject] = OrderedDict()

    def subject(self, name: str) -> Subject:
        """What is known of a subject; the name is no secret and stands in its key."""
        subject = self._subjects.get(name)
        if subject is None:
            subject = self._subjects[name] = Subject(ring_key(self.limit_class, name), self._window_s)
            if len(self._subjects) > SUBJECTS:
                self._subjects.popitem(last=False)
        else:
            self._subjects.move_to_end(name)
        return subject

    async def admit(self, name: str) -> Decision:
        """Admit one request of a subject.

        Raises:
            RateLimitExceeded: the limit is reached.
            LimitUnknown: Redis is away and this process has no share of so small a limit.
        """
        subject = self.subject(name)
        while True:
            decision = self.spend(subject)
            if decision is not None:
                return decision
            subject.waiting += 1
            try:
                await self._charge_once(subject)
            except RedisUnavailable:
                return self._admit_alone(subject)
            finally:
                subject.waiting -= 1

    def spend(self, subject: Subject) -> Decision | None:
        """Admit one request from the lease, without I/O; None when Redis has to be asked.

        Raises:
            RateLimitExceeded: Redis has said no a moment ago.
        """
        now = self._monotonic()
        if subject.permits and now < subject.spend_by:
            subject.permits -= 1
            subject.seen.add(now)
            return Decision(
                limit_class=self.limit_class,
                policy=self.policy,
                remaining=subject.free + subject.permits,
                reset_s=max(0.0, subject.next_free_at - now),
                stamp=subject.stamp,
            )
        if now < subject.denied_until:
            raise RateLimitExceeded(self.limit_class, self.policy, retry_after_s=subject.retry_at - now)
        return None

    def request_if_due(self, subject: Subject) -> ChargeRequest | None:
        """What to ask along with a call that is made anyway; None while there are permits, or a denial."""
        now = self._monotonic()
        if (subject.permits and now < subject.spend_by) or now < subject.denied_until or subject.charging is not None:
            return None
        return self.request(subject)

    def request(self, subject: Subject) -> ChargeRequest:
        """What to ask of the subject's ring now: a portion, or a permit for each who waits."""
        if subject.permits:  # they have lapsed: ask for no more than was spent
            subject.portion = max(1, subject.charged - subject.permits)
            subject.permits = 0
        counted = subject.seen.count(self._monotonic())
        subject.debt = min(subject.debt, counted)
        return ChargeRequest(
            limit=self.policy.limit,
            window_us=round(self._window_s * 1e6),
            want=max(subject.portion, subject.waiting),
            least=1,
            debt=subject.debt,
            history=counted - subject.debt,
        )

    def settle(self, subject: Subject, charge: Charge, request: ChargeRequest, *, sent_at: float) -> None:
        """Take in what the ring answered to a request that was sent at ``sent_at``."""
        subject.debt = max(0, subject.debt - request.debt)
        subject.free = charge.free
        if charge.admitted:
            # The ring's time lies after the sending, so a permit that is spent by then is spent within the lease.
            # Permits of an answer that came just before are kept, but not for longer than these.
            kept = subject.permits if self._monotonic() < subject.spend_by else 0
            subject.spend_by = min(subject.spend_by, sent_at + self._lease_s) if kept else sent_at + self._lease_s
            subject.permits = subject.charged = kept + charge.admitted
            subject.portion = min(self._most, subject.portion * 2)
            subject.next_free_at = sent_at + charge.next_free_s
            subject.stamp = charge.stamp
        else:
            subject.retry_at = sent_at + charge.retry_after_s
            subject.denied_until = sent_at + min(charge.retry_after_s, DENIAL_S)
            subject.portion = 1
        if self.is_degraded:
            self.is_degraded = False
            log.info("ratelimit_restored", limit_class=self.limit_class)

    async def forgive(self, name: str, decision: Decision) -> None:
        """Take an admission back, as if it had not been asked for; without Redis it stays counted."""
        subject = self.subject(name)
        try:
            await self._redis.eval(FORGIVE, [subject.key], [self.policy.limit, decision.stamp])
        except RedisUnavailable:
            log.info("ratelimit_not_forgiven", limit_class=self.limit_class)

    async def look(self, name: str) -> Charge:
        """What is left to a subject, without asking for any of it.

        Raises:
            RedisUnavailable: nobody can know now.
        """
        key = ring_key(self.limit_class, name)
        return Charge.parse(await self._redis.eval(LOOK, [key], [self.policy.limit, round(self._window_s * 1e6)]))

    async def reset(self, name: str) -> None:
        """Forget all admissions of a subject; processes that have just denied it follow within DENIAL_S.

        Raises:
            RedisUnavailable: they could not be forgotten.
        """
        key = ring_key(self.limit_class, name)
        await self._redis.eval(RESET, [key], [self.policy.limit, round(self._window_s * 1e6)])
        self._subjects.pop(name, None)

    async def carry_over(self, old_name: str, new_name: str) -> None:
        """Copy a subject's ring for another name; without Redis it begins anew."""
        # Two calls, for the two keys may stand on different nodes of a cluster.
        try:
            ring = await self._redis.run("GET", ring_key(self.limit_class, old_name))
            if isinstance(ring, bytes):
                lifetime_ms = round(self._window_s * 1000) + 1000
                await self._redis.run("SET", ring_key(self.limit_class, new_name), ring, "PX", lifetime_ms)
        except RedisUnavailable:
            log.info("ratelimit_not_carried_over", limit_class=self.limit_class)

    async def _charge_once(self, subject: Subject) -> None:
        """Ask Redis, or join whoever asks already."""
        if subject.charging is None:
            subject.charging = asyncio.get_running_loop().create_task(self._charge(subject))
        await asyncio.shield(subject.charging)

    async def _charge(self, subject: Subject) -> None:
        await asyncio.sleep(0)  # let the others of this turn of the event loop be counted as waiting
        try:
            request = self.request(subject)
            sent_at = self._monotonic()
            reply = await self._redis.eval(CHARGE, [subject.key], request.arguments())
            self.settle(subject, Charge.parse(reply), request, sent_at=sent_at)
        finally:
            subject.charging = None

    def _admit_alone(self, subject: Subject) -> Decision:
        """Admit by this process's share; what it has admitted with Redis' leave counts, too."""
        if not self.is_degraded:
            self.is_degraded = True
            log.warning("ratelimit_degraded", limit_class=self.limit_class, share=self._share)
        if self._share == 0:
            raise LimitUnknown(retry_after_s=2)
        now = self._monotonic()
        if now < subject.retry_at:  # the last word of Redis still holds
            raise RateLimitExceeded(self.limit_class, self.policy, retry_after_s=subject.retry_at - now)
        used = subject.seen.count(now)
        if used >= self._share:
            raise RateLimitExceeded(
                self.limit_class, self.policy, retry_after_s=subject.seen.wait_s(now, room=self._share - 1)
            )
        subject.seen.add(now)
        subject.debt += 1
        return Decision(
            limit_class=self.limit_class,
            policy=self.policy,
            remaining=self._share - used - 1,
            reset_s=float(self.policy.window_s),
        )


class Limiter:
    """All limits of one process; a class that is off has none."""

    def __init__(self, settings: Settings, redis: RedisClient) -> None:
        """Take the policies."""
        self._classes: dict[LimitClass, ClassLimiter] = {}
        processes = settings.rate_limit_processes
        for limit_class, policy in (
            (LimitClass.AUTH, settings.rate_limit_auth),
            (LimitClass.API, settings.rate_limit_api),
            (LimitClass.PROXY, settings.rate_limit_proxy),
        ):
            if policy is None:
                continue
            # Only proxied requests come fast enough for a permit to be charged before its request is there.
            leases = limit_class is LimitClass.PROXY
            self._classes[limit_class] = ClassLimiter(
                limit_class,
                policy,
                redis=redis,
                processes=processes,
                lease_s=min(LEASE_S, policy.window_s / 10),
                most=max(1, policy.limit // (LEASE_SHARE * processes)) if leases else 1,
            )

    def get(self, limit_class: LimitClass) -> ClassLimiter | None:
        """The limiter of a class, or None when the class is off."""
        return self._classes.get(limit_class)

    @property
    def degraded(self) -> frozenset[LimitClass]:
        """The classes that count by themselves because Redis is away."""
        return frozenset(limit_class for limit_class, limiter in self._classes.items() if limiter.is_degraded)
