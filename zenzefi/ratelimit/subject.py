"""What a process knows of one subject of one limit, and what follows from it: no I/O, the time is given."""

import asyncio
import math
from dataclasses import dataclass
from typing import NamedTuple

from zenzefi.ratelimit.errors import LimitUnknown, RateLimitExceeded
from zenzefi.ratelimit.fields import limit_fields
from zenzefi.ratelimit.ring import Charge, ChargeRequest, LimitClass, ring_key
from zenzefi.ratelimit.window import AdmissionLog
from zenzefi.settings import RateLimit

# A denial is believed this long without asking again, so that whoever hammers costs Redis nothing; a subject that an
# operator resets is let in again after it.
DENIAL_S = 1.0
# Somewhat more than was spent at the last rate, so that a lease lasts its time; what is left over goes back.
HEADROOM = 1.5
# From so many permits in a portion on, a subject's next one is asked for before this one lapses: all requests that come
# until the answer would wait together. What is charged twice for that moment is little of so large a limit.
BUSY = 32
# 1, 4, 16: a subject that begins is served in full after three calls.
GROWTH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for all subjects of a class in this process.

    A permit is spent within ``lease_s`` of its charge; ``most`` are charged in advance; ``share`` are admitted in a
    window without Redis.
    """

    limit_class: LimitClass
    policy: RateLimit
    lease_s: float
    most: int
    share: int

    @property
    def window_s(self) -> float:
        """The window of the ring: it counts charges, and a permit is spent up to a lease later."""
        return self.policy.window_s + self.lease_s


class Decision(NamedTuple):
    """An admitted request: what the RateLimit header says, and by what it can be forgiven.

    ``stamp`` is the time of its charge, empty when it was admitted without Redis; ``at`` that of this process's clock.
    """

    limit_class: LimitClass
    policy: RateLimit
    remaining: int
    reset_s: float
    stamp: bytes
    at: float

    def fields(self) -> tuple[tuple[str, str], ...]:
        """The fields of draft-ietf-httpapi-ratelimit-headers-10, for the response."""
        return limit_fields(self.limit_class, self.policy, remaining=self.remaining, reset_s=self.reset_s)


class Subject:
    """What one process knows of one subject of one class. Times are those of the monotonic clock."""

    __slots__ = (
        "charged",
        "charging",
        "debt",
        "denied_until",
        "free",
        "heard_at",
        "key",
        "leased_at",
        "next_free_at",
        "permits",
        "retry_at",
        "ring",
        "seen",
        "spend_by",
        "stale",
        "stale_stamp",
        "stamp",
        "terms",
        "waiting",
    )

    def __init__(self, terms: Terms, name: str) -> None:
        """Take the class's terms and the subject's name, which is no secret and stands in its key."""
        self.terms = terms
        self.key = ring_key(terms.limit_class, name)
        self.permits = 0  # charged and not spent
        self.charged = 0  # how many the last charge gave
        self.leased_at = 0.0  # when it was asked for
        self.spend_by = 0.0  # when they lapse
        self.stamp = b""  # the ring's time of it
        self.stale = 0  # of a charge at another time: not to be spent, and to go back with the next one
        self.stale_stamp = b""
        self.ring = b""  # which ring that was
        self.free = 0  # what it had left
        self.next_free_at = 0.0
        self.heard_at = 0.0  # when the ring was last told of all that was admitted
        self.denied_until = 0.0  # the answer is no until then, without asking
        self.retry_at = 0.0
        self.debt = 0  # admitted while Redis was away, and not charged yet
        self.seen = AdmissionLog(terms.window_s, limit=terms.policy.limit)
        self.waiting = 0  # requests that wait for a permit now
        self.charging: asyncio.Task[bool] | None = None

    def has_permits(self, now: float) -> bool:
        """Whether the next request is admitted without asking."""
        return self.permits > 0 and now < self.spend_by

    def spend(self, now: float) -> Decision | None:
        """Admit one request from the lease; None when Redis has to be asked.

        Raises:
            RateLimitExceeded: Redis has said no a moment ago.
        """
        if self.permits and now < self.spend_by:
            self.permits -= 1
            self.seen.add(now)
            reset_s = max(0.0, self.next_free_at - now)
            terms, remaining = self.terms, self.free + self.permits
            # Without the constructor, which is Python's: nearly every proxied request comes here.
            return tuple.__new__(Decision, (terms.limit_class, terms.policy, remaining, reset_s, self.stamp, now))
        if now < self.denied_until:
            raise self._exceeded(self.retry_at - now)
        return None

    def spend_alone(self, now: float) -> Decision:
        """Admit one request by this process's share; what it has admitted with Redis' leave counts, too.

        Raises:
            RateLimitExceeded: the share is used up, or the last word of Redis, which was no, still holds.
            LimitUnknown: there is no share of so small a limit.
        """
        share = self.terms.share
        if share == 0:
            raise LimitUnknown(retry_after_s=2)
        if now < self.retry_at:
            raise self._exceeded(self.retry_at - now)
        used = self.seen.count(now)
        if used >= share:
            raise self._exceeded(self.seen.wait_s(now, room=share - 1))
        self.seen.add(now)
        self.debt += 1
        reset_s = self.seen.wait_s(now, room=used)
        return Decision(self.terms.limit_class, self.terms.policy, share - used - 1, reset_s, b"", now)

    def take_back(self, decision: Decision) -> None:
        """Forget an admission; a denial for which it stood in the way is not believed any longer."""
        self.seen.remove(decision.at)
        self.denied_until = self.retry_at = 0.0
        if not decision.stamp:
            self.debt = max(0, self.debt - 1)

    def needs_charge(self, now: float) -> bool:
        """Whether to ask along with a call that is made anyway: then both are due together from then on."""
        if self.charging is not None or now < self.denied_until:
            return False
        return not self.has_permits(now + self.terms.lease_s * 3 / 4)

    def is_busy(self, now: float) -> bool:
        """Whether there are permits now, and so many are spent that the next ones are to be asked for meanwhile."""
        return self.has_permits(now) and self._portion(now) >= BUSY

    def request_ahead(self, now: float) -> ChargeRequest | None:
        """What to ask of the ring while requests go on with the permits that are here; None where those are new."""
        if self.charging is not None or self.has_permits(now + self.terms.lease_s * 9 / 10):
            return None
        return self._ask(now, want=self._portion(now), is_ahead=True)

    def request(self, now: float) -> ChargeRequest:
        """What to ask of the ring now: a portion, or a permit for each who waits.

        The permits that were not spent go back with it. They are gone from here whatever becomes of the request: given
        back twice, they would make room for requests that were admitted.
        """
        want = max(self._portion(now), self.waiting)
        back, self.permits = min(self.permits, self.charged), 0
        return self._ask(now, want=want, back=back, stamp=self.stamp)

    def _ask(
        self, now: float, *, want: int, back: int = 0, stamp: bytes = b"", is_ahead: bool = False
    ) -> ChargeRequest:
        if not back:
            back, stamp, self.stale = self.stale, self.stale_stamp, 0
        counted = self.seen.count(now)
        self.debt = min(self.debt, counted)
        return ChargeRequest(
            limit=self.terms.policy.limit,
            window_us=round(self.terms.window_s * 1e6),
            want=want,
            least=1,
            debt=self.debt,
            history=counted - self.debt,
            ring=self.ring,
            back=back,
            stamp=stamp if back else b"0",
            is_ahead=is_ahead,
        )

    def restore(self, request: ChargeRequest) -> None:
        """Have the permits again that would have gone back with a request which was not made."""
        if self.stamp == request.stamp:
            self.permits += request.back

    def report(self, now: float) -> ChargeRequest:
        """What the ring has not heard of, without asking for any permits."""
        counted = self.seen.count(now)
        self.debt = min(self.debt, counted)
        return ChargeRequest(
            limit=self.terms.policy.limit,
            window_us=round(self.terms.window_s * 1e6),
            debt=self.debt,
            history=counted - self.debt,
            ring=self.ring,
        )

    def settle(self, charge: Charge, request: ChargeRequest, *, sent_at: float, now: float) -> None:
        """Take in what the ring answered to a request that was sent at ``sent_at``."""
        self.debt = max(0, self.debt - request.debt)
        self.ring = charge.ring
        self.heard_at = sent_at
        if request.want == 0 or (request.is_ahead and not self._make_way(charge, now)):
            return
        self.free = charge.free
        self.charged = charge.admitted
        if charge.admitted:
            # The ring's time lies after the sending, so a permit that is spent by then is spent within the lease.
            # Permits of an answer that came just before are kept, but not for longer than those were good for.
            kept = self.permits if self.has_permits(now) else 0
            spend_by = sent_at + self.terms.lease_s
            self.spend_by = min(self.spend_by, spend_by) if kept else spend_by
            self.permits = kept + charge.admitted
            self.leased_at = sent_at
            self.stamp = charge.stamp
            self.next_free_at = now + charge.next_free_s
            self.denied_until = self.retry_at = 0.0
        else:
            # It lies before the hearing, too: who comes back as long after that as was said does not come too early.
            self.retry_at = now + charge.retry_after_s
            self.denied_until = sent_at + min(charge.retry_after_s, DENIAL_S)

    def _make_way(self, charge: Charge, now: float) -> bool:
        """Lay the permits aside that were here before those of a charge that was asked for ahead, or those of it.

        The smaller part goes back: together they would lapse as soon as the older ones do.
        """
        here = self.permits if self.has_permits(now) else 0
        if charge.admitted <= here:
            self.stale, self.stale_stamp = charge.admitted, charge.stamp
            return False
        self.stale, self.stale_stamp = min(here, self.charged), self.stamp
        self.permits = 0
        return True

    def _portion(self, now: float) -> int:
        """How many to charge: what was spent at the last rate in a lease, and at most GROWTH times as many as last."""
        spent = max(0, self.charged - self.permits)
        elapsed_s = max(now - self.leased_at, 1e-6)
        expected = math.ceil(HEADROOM * spent * self.terms.lease_s / elapsed_s)
        return max(1, min(expected, GROWTH * self.charged, self.terms.most))

    def _exceeded(self, retry_after_s: float) -> RateLimitExceeded:
        return RateLimitExceeded(self.terms.limit_class, self.terms.policy, retry_after_s=retry_after_s)
