"""Open streams: every request on its way through this process, so that it can be metered and ended while it runs."""

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from zenzefi.access.models import TokenGrant
from zenzefi.gateway.errors import TooManyStreams
from zenzefi.gateway.models import Admission, Device, Outcome, StreamEnd
from zenzefi.infra.instruments import OPEN_STREAMS

# How long a revocation is remembered for requests that were admitted just before it: far longer than the way from the
# admission to the stream's registration, which is a few turns of the event loop.
REMEMBER_REVOCATIONS_S = 10.0


class OpenStream:
    """One request on its way. The data path adds to ``bytes_in`` and ``bytes_out`` and sets ``on_end``."""

    __slots__ = (
        "_metered_in",
        "_metered_out",
        "_on_end",
        "bytes_in",
        "bytes_out",
        "checked_at",
        "device",
        "end_reason",
        "grant",
        "ip",
        "outcome",
        "touched_at",
        "upstream_s",
        "user_agent",
    )

    def __init__(self, admission: Admission, *, ip: IPv4Address | IPv6Address | None, user_agent: str | None) -> None:
        """Take what was admitted, and what the session remembers of the client."""
        self.grant: TokenGrant = admission.grant
        self.device = admission.device
        self.ip = ip
        self.user_agent = user_agent
        self.bytes_in = 0  # body bytes from the client
        self.bytes_out = 0  # body bytes to the client
        self.upstream_s: float | None = None  # from asking the upstream to the head of its answer
        self.outcome = Outcome.SERVED
        self.end_reason: StreamEnd | None = None
        self.checked_at = admission.confirmed_at  # monotonic: when the token was last known to be usable
        self.touched_at = admission.confirmed_at  # monotonic: when the session last heard of this stream
        self._on_end: Callable[[str], None] | None = None
        self._metered_in = 0
        self._metered_out = 0

    @property
    def on_end(self) -> Callable[[str], None] | None:
        """What ends the stream now; it is called at once when the stream was ended before it was set."""
        return self._on_end

    @on_end.setter
    def on_end(self, callback: Callable[[str], None] | None) -> None:
        self._on_end = callback
        if callback is not None and self.end_reason is not None:
            callback(self.end_reason)

    def end(self, reason: StreamEnd) -> None:
        """Ask the data path to stop; the first reason stands."""
        if self.end_reason is not None:
            return
        self.end_reason = reason
        self.outcome = Outcome.ENDED
        if self._on_end is not None:
            self._on_end(reason)

    @property
    def has_unmetered(self) -> bool:
        """Whether bytes came since they were last taken."""
        return self.bytes_in != self._metered_in or self.bytes_out != self._metered_out

    def take_unmetered(self) -> tuple[int, int]:
        """The bytes in and out since the last call."""
        delta = self.bytes_in - self._metered_in, self.bytes_out - self._metered_out
        self._metered_in, self._metered_out = self.bytes_in, self.bytes_out
        return delta


class OpenStreams:
    """All streams of one process, by token."""

    def __init__(self, *, limit: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take how many streams a token may have, and the monotonic clock, in seconds."""
        self._limit = limit
        self._monotonic = monotonic
        self._by_token: dict[bytes, set[OpenStream]] = {}
        self._revoked_at: dict[bytes, float] = {}

    def __iter__(self) -> Iterator[OpenStream]:
        """Every open stream; safe against streams that open and close meanwhile."""
        return iter([stream for streams in self._by_token.values() for stream in streams])

    def open(self, stream: OpenStream) -> None:
        """Take a stream in; one whose token was revoked after its admission is ended at once.

        Raises:
            TooManyStreams: its token has as many as it may have.
        """
        token_hash = stream.grant.token_hash
        streams = self._by_token.setdefault(token_hash, set())
        if len(streams) >= self._limit:
            raise TooManyStreams(limit=self._limit)
        streams.add(stream)
        if self.revoked_since(token_hash, stream.checked_at):
            stream.end(StreamEnd.REVOKED)

    def close(self, stream: OpenStream) -> None:
        """Let a stream go; closing twice does nothing."""
        streams = self._by_token.get(stream.grant.token_hash)
        if streams is not None:
            streams.discard(stream)
            if not streams:
                del self._by_token[stream.grant.token_hash]

    def sample(self) -> None:
        """Set the gauge of open streams."""
        OPEN_STREAMS.labels().set(sum(map(len, self._by_token.values())))

    def revoked_since(self, token_hash: bytes, instant: float) -> bool:
        """Whether word of a revocation came after this instant of the monotonic clock."""
        revoked_at = self._revoked_at.get(token_hash)
        return revoked_at is not None and revoked_at >= instant

    def revoke(self, token_hashes: Iterable[bytes]) -> None:
        """End all streams of these tokens, and those that were admitted but are not open yet."""
        now = self._monotonic()
        for token_hash in token_hashes:
            self._revoked_at[token_hash] = now
            self.end_all_of(token_hash, StreamEnd.REVOKED)

    def end_all_of(self, token_hash: bytes, reason: StreamEnd, *, device: Device | None = None) -> None:
        """End all open streams of one token, or of one device with it."""
        for stream in list(self._by_token.get(token_hash, ())):
            if device is None or stream.device == device:
                stream.end(reason)

    def holders(self) -> list[tuple[bytes, Device]]:
        """The tokens that have a stream which is not ended, and its device."""
        return list({(stream.grant.token_hash, stream.device) for stream in self if stream.end_reason is None})

    def end_expired(self, now: datetime) -> None:
        """End the streams whose token has expired by now; forget revocations that no admission can precede."""
        for stream in self:
            expires_at = stream.grant.expires_at
            if expires_at is not None and expires_at <= now:
                stream.end(StreamEnd.EXPIRED)
        forgotten = self._monotonic() - REMEMBER_REVOCATIONS_S
        for token_hash in [key for key, revoked_at in self._revoked_at.items() if revoked_at < forgotten]:
            del self._revoked_at[token_hash]

    def renew(self, grant: TokenGrant, *, confirmed_at: float) -> None:
        """Give all streams of a token what is newly known of it, such as its activation."""
        for stream in self._by_token.get(grant.token_hash, ()):
            stream.grant = grant
            stream.checked_at = max(stream.checked_at, confirmed_at)

    def unchecked_since(self, instant: float) -> list[bytes]:
        """The tokens with a stream that was last known to be usable before this instant of the monotonic clock."""
        return [
            token_hash
            for token_hash, streams in self._by_token.items()
            if any(stream.checked_at < instant and stream.end_reason is None for stream in streams)
        ]
