"""What is remembered of tokens outside PostgreSQL: for a second in the process, for five in Redis."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, cast
from uuid import UUID

from zenzefi.access.models import TokenGrant
from zenzefi.access.revocation import GRANT_LIFETIME_MS, TOMBSTONE, grant_key, lease_key
from zenzefi.context import Context
from zenzefi.gateway.models import Device, Verdict
from zenzefi.infra.redis import Script
from zenzefi.ratelimit.ring import RING_LUA, Charge, ChargeRequest, LimitClass, ring_key
from zenzefi.ratelimit.service import token_subject

LEASE_S: Final = 300  # a device holds its token until five minutes after its last request
# A second of requests may be served without telling Redis, so that its lease has to last that much longer.
LEASE_MS: Final = (LEASE_S + 1) * 1000
# What a revocation that nobody announces may cost; a busy token asks Redis about once in it.
CACHE_S: Final = 1.0
# What is known of a busy token is renewed beside its requests when so much of its life is over: else all that come
# until the answer would wait together. Redis has half of the rest to answer.
RENEW_S: Final = 0.9 * CACHE_S
# A grant has about 1 KB with its entry: 20 MB for the busiest tokens of one second.
CACHE_ENTRIES: Final = 20_000

_NO_CHARGE: Final = (0,) * 9
_HASH_BYTES: Final = 32
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

# One call decides about a request of a known token: it gives the grant, and takes the lease's word on the device. The
# device's own lease is renewed, and its requests are charged to the rate limit, only when the token's scope lets the
# request through. A free lease is not taken here: PostgreSQL decides who gets it (zenzefi.gateway.devices).
# KEYS: grant, lease, ring. ARGV: device hash, lease in ms, the arguments of ring_charge (a limit of 0 charges
# nothing), the scopes that let the request through.
_RECALL: Final = Script(
    RING_LUA
    + """
local grant = redis.call('GET', KEYS[1])
local holder = redis.call('GET', KEYS[2])
local grant_ms, lease_ms, charge = 0, 0, false
if grant then grant_ms = redis.call('PTTL', KEYS[1]) end
if holder then
  lease_ms = redis.call('PTTL', KEYS[2])
  if grant and string.sub(holder, 1, 32) == ARGV[1] then
    local scope = string.match(grant, '^1|([^|]*)|')
    for i = 12, #ARGV do
      if ARGV[i] == scope then
        redis.call('PEXPIRE', KEYS[2], ARGV[2])
        if ARGV[3] ~= '0' then charge = ring_charge(KEYS[3], ARGV, 3, ring_clock()) end
        break
      end
    end
  end
end
return {grant, grant_ms, holder, lease_ms, charge}
"""
)

# Stores what PostgreSQL said, unless the token was ended meanwhile, a fresher copy is there, or the clock runs in that
# copy and not yet in this one; takes or renews the lease unless another device has it. A lifetime of 0 stores no grant,
# an empty holder leaves the lease alone. A clock that does not run is two empty times at the end of a record.
# KEYS: grant, lease. ARGV: grant, its lifetime in ms, holder, lease in ms, tombstone.
_REMEMBER: Final = Script("""
if tonumber(ARGV[2]) > 0 then
  local known = redis.call('GET', KEYS[1])
  local is_older = known and string.sub(ARGV[1], -2) == '||' and string.sub(known, -2) ~= '||'
  if not known or (known ~= ARGV[5] and not is_older and redis.call('PTTL', KEYS[1]) <= tonumber(ARGV[2])) then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  end
end
if ARGV[3] == '' then return 0 end
local holder = redis.call('GET', KEYS[2])
if holder and string.sub(holder, 1, 32) ~= string.sub(ARGV[3], 1, 32) then return redis.call('PTTL', KEYS[2]) end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
return 0
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recollection:
    """What Redis knows of a token: its grant and its lease, each with the rest of its life, and what was charged."""

    grant: TokenGrant | None
    grant_ms: int
    holder: Device | None
    lease_ms: int
    charge: Charge | None


async def recall(
    ctx: Context,
    *,
    token_hash: bytes,
    device: Device | None = None,
    scopes: Sequence[str] = (),
    charge: ChargeRequest | None = None,
) -> Recollection:
    """Ask Redis for a token; if `device` holds it and its scope is one of `scopes`, renew the lease and charge it.

    Raises:
        RedisUnavailable: Redis is away.
    """
    reply = await ctx.redis.eval(
        _RECALL,
        [grant_key(token_hash), lease_key(token_hash), ring_key(LimitClass.PROXY, token_subject(token_hash))],
        [
            device.device_hash if device is not None else b"",
            LEASE_MS,
            *(_NO_CHARGE if charge is None else charge.arguments()),
            *scopes,
        ],
    )
    grant, grant_ms, holder, lease_ms, charged = cast("tuple[bytes | None, int, bytes | None, int, object]", reply)
    return Recollection(
        grant=None if grant is None else _decode_grant(grant, token_hash),
        grant_ms=grant_ms,
        holder=None if holder is None else _decode_holder(holder),
        lease_ms=lease_ms,
        charge=None if charged is None else Charge.parse(charged),
    )


async def remember(
    ctx: Context,
    *,
    token_hash: bytes,
    grant: TokenGrant | None = None,
    age_s: float = 0.0,
    holder: Device | None = None,
) -> int:
    """Keep what PostgreSQL said `age_s` ago of a token, of its holder, or of both.

    The result is 0, or the milliseconds for which another device holds the token.

    Raises:
        RedisUnavailable: Redis is away.
    """
    lifetime_ms = 0 if grant is None else GRANT_LIFETIME_MS - int(age_s * 1000)
    reply = await ctx.redis.eval(
        _REMEMBER,
        [grant_key(token_hash), lease_key(token_hash)],
        [
            b"" if grant is None else _encode_grant(grant),
            max(0, lifetime_ms),
            b"" if holder is None else _encode_holder(holder),
            LEASE_MS,
            TOMBSTONE,
        ],
    )
    return cast(int, reply)


@dataclass(slots=True, kw_only=True)
class CachedGrant:
    """What this process knows for a moment: the grant (None: not usable), and the device that holds the token."""

    grant: TokenGrant | None
    holder: Device | None
    confirmed_at: float
    valid_until: float
    is_ageing: bool = False  # it is to be renewed while it is good
    is_renewed: bool = False  # that has begun
    verdict: Verdict | None = None  # what the holder is told by it, made when it is first asked for


class GrantCache:
    """The process's own memory of tokens, bounded in time and number. Times are those of the monotonic clock."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, *, entries: int = CACHE_ENTRIES) -> None:
        """Take the clock, in seconds, and how many tokens to remember at most."""
        self._monotonic = monotonic
        self._entries = entries
        self._by_hash: OrderedDict[bytes, CachedGrant] = OrderedDict()
        self._forgot_at = -math.inf

    def find(self, token_hash: bytes) -> CachedGrant | None:
        """What is known of a token and still valid."""
        entry = self._by_hash.get(token_hash)
        if entry is None:
            return None
        now = self._monotonic()
        if entry.valid_until <= now:
            del self._by_hash[token_hash]
            return None
        entry.is_ageing = now - entry.confirmed_at >= RENEW_S
        return entry

    def put(
        self,
        token_hash: bytes,
        grant: TokenGrant | None,
        *,
        holder: Device | None,
        confirmed_at: float,
        lifetime_s: float = CACHE_S,
    ) -> None:
        """Remember what was asked for at `confirmed_at`; the token that was put in first makes room.

        What was asked for before something was last forgotten may be what was to be forgotten: it is not kept. Nor is
        a grant that was read before the clock started, where one is known from after that.
        """
        if confirmed_at <= self._forgot_at:
            return
        known = self._by_hash.pop(token_hash, None)
        if known is not None and _has_clock(known.grant) and grant is not None and not _has_clock(grant):
            grant = known.grant
        self._by_hash[token_hash] = CachedGrant(
            grant=grant,
            holder=holder,
            confirmed_at=confirmed_at,
            valid_until=confirmed_at + min(lifetime_s, CACHE_S),
        )
        if len(self._by_hash) > self._entries:
            self._by_hash.popitem(last=False)

    def drop(self, token_hash: bytes) -> None:
        """Forget a token."""
        self._forgot_at = self._monotonic()
        self._by_hash.pop(token_hash, None)

    def clear(self) -> None:
        """Forget all tokens."""
        self._forgot_at = self._monotonic()
        self._by_hash.clear()


def _has_clock(grant: TokenGrant | None) -> bool:
    return grant is not None and grant.activated_at is not None


def _encode_grant(grant: TokenGrant) -> bytes:
    # The first field is the format's version: one that a process does not know counts as unknown, so that a rolling
    # upgrade may change it. The scope stands second, where the script reads it.
    fields = (
        "1",
        grant.scope,
        grant.token_id.hex,
        grant.user_id.hex,
        str(grant.duration_hours),
        _encode_time(grant.activated_at),
        _encode_time(grant.expires_at),
    )
    return "|".join(fields).encode("ascii")


def _decode_grant(record: bytes, token_hash: bytes) -> TokenGrant | None:
    """The grant of a record; None for the tombstone, and for a record in another version's format."""
    version, *fields = record.decode("ascii").split("|")
    if version != "1":
        return None
    scope, token_id, user_id, duration_hours, activated_at, expires_at = fields
    return TokenGrant(
        token_id=UUID(hex=token_id),
        user_id=UUID(hex=user_id),
        token_hash=token_hash,
        duration_hours=int(duration_hours),
        scope=scope,
        activated_at=_decode_time(activated_at),
        expires_at=_decode_time(expires_at),
    )


def _encode_time(instant: datetime | None) -> str:
    return "" if instant is None else str((instant - _EPOCH) // _MICROSECOND)


def _decode_time(text: str) -> datetime | None:
    return None if text == "" else _EPOCH + int(text) * _MICROSECOND


def _encode_holder(device: Device) -> bytes:
    return device.device_hash + device.hint.encode()


def _decode_holder(record: bytes) -> Device:
    return Device(device_hash=record[:_HASH_BYTES], hint=record[_HASH_BYTES:].decode())
