"""The ring in Redis: the scripts, their keys, and what they answer."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, cast

from zenzefi.infra.redis import Argument, Script

RING_LUA: Final = (Path(__file__).parent / "ring.lua").read_text(encoding="utf-8")

# KEYS: ring. ARGV: see ChargeRequest.arguments.
CHARGE: Final = Script(RING_LUA + "return ring_charge(KEYS[1], ARGV, 1, ring_clock())")
# KEYS: ring. ARGV: limit, window in µs. An empty ring that was made at no time, not none: to one that is not there, or
# another than they know, processes charge what they remember.
RESET: Final = Script(
    RING_LUA
    + """
local ring = {size = tonumber(ARGV[1]), oldest = 0, last = ring_clock(), born = 0}
redis.call('SET', KEYS[1], ring_header(ring), 'PX', math.ceil(tonumber(ARGV[2]) / 1000) + 1000)
return 1
"""
)


class LimitClass(StrEnum):
    """What a limit is for; each has a policy of its own."""

    AUTH = "auth"
    API = "api"
    PROXY = "proxy"


def ring_key(limit_class: LimitClass, subject: str) -> str:
    """Where a subject's ring is; the braces are the hash tag that keeps the keys of one decision together."""
    return f"znz:{{{subject}}}:ring:{limit_class}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeRequest:
    """What to ask of a ring, in the words of ring_charge in ring.lua; by default only how it stands."""

    limit: int
    window_us: int
    want: int = 0
    least: int = 0
    debt: int = 0
    history: int = 0
    ring: bytes = b""
    back: int = 0
    stamp: bytes = b"0"
    is_ahead: bool = False  # asked for while there are permits: no is no answer to any request

    def arguments(self) -> tuple[Argument, ...]:
        """The arguments of ring_charge, in its order."""
        return (
            self.limit,
            self.window_us,
            self.want,
            self.least,
            self.debt,
            self.history,
            self.ring,
            self.back,
            self.stamp,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a ring answered: the permits given, those left, and the seconds until a retry and until one comes back.

    ``stamp`` is the time of the charge, by which permits are given back; ``ring`` tells this ring from the one that is
    made when it was lost.
    """

    admitted: int
    free: int
    retry_after_s: float
    next_free_s: float
    stamp: bytes
    ring: bytes

    @classmethod
    def parse(cls, reply: object) -> "Charge":
        """From the script's reply."""
        admitted, free, retry_us, leaves_us, stamp, ring = cast("tuple[int, int, int, int, bytes, bytes]", reply)
        return cls(
            admitted=admitted,
            free=free,
            retry_after_s=retry_us / 1e6,
            next_free_s=leaves_us / 1e6,
            stamp=stamp,
            ring=ring,
        )
