"""The ring in Redis: the scripts, their keys, and what they answer."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, cast

from zenzefi.infra.redis import Argument, Script

RING_LUA: Final = (Path(__file__).parent / "ring.lua").read_text(encoding="utf-8")

# KEYS: ring. ARGV: see ChargeRequest.arguments.
CHARGE: Final = Script(
    RING_LUA
    + """
return ring_charge(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]),
  tonumber(ARGV[5]), tonumber(ARGV[6]), ring_clock())
"""
)
# KEYS: ring. ARGV: limit, time of the admission to take back.
FORGIVE: Final = Script(RING_LUA + "return ring_forgive(KEYS[1], tonumber(ARGV[1]), ARGV[2], ring_clock())")
# KEYS: ring. ARGV: limit, window in µs. An empty ring, not none: to a lost one, processes charge what they remember.
RESET: Final = Script(
    RING_LUA
    + """
redis.call('SET', KEYS[1], struct.pack('>I4I4d', tonumber(ARGV[1]), 0, ring_clock()),
  'PX', math.ceil(tonumber(ARGV[2]) / 1000) + 1000)
return 1
"""
)
# KEYS: ring. ARGV: limit, window in µs. Asks for nothing, so it writes nothing: the free permits, and until when.
LOOK: Final = Script(
    RING_LUA + "return ring_charge(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), 0, 0, 0, 0, ring_clock())"
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
    """What to ask of a ring: ``want`` permits, ``least`` of them at once; debt and history as in ring.lua."""

    limit: int
    window_us: int
    want: int
    least: int
    debt: int
    history: int

    def arguments(self) -> tuple[Argument, ...]:
        """The arguments of ring_charge, in its order."""
        return (self.limit, self.window_us, self.want, self.least, self.debt, self.history)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a ring answered: the permits given, those left, and the seconds until a retry and until one comes back."""

    admitted: int
    free: int
    retry_after_s: float
    next_free_s: float
    stamp: bytes

    @classmethod
    def parse(cls, reply: object) -> "Charge":
        """From the script's reply."""
        admitted, free, retry_us, leaves_us, stamp = cast("tuple[int, int, int, int, bytes]", reply)
        return cls(
            admitted=admitted,
            free=free,
            retry_after_s=retry_us / 1e6,
            next_free_s=leaves_us / 1e6,
            stamp=stamp,
        )
