"""What a process remembers for a moment about who is signed in."""

import time
from collections.abc import Callable, Iterable
from uuid import UUID

from zenzefi.web.identity import Identity

# A ban, a logout or a password change holds in every process within 1 s; the rest of that second is for the query
# and the request itself.
TTL_S = 0.8
MAX_ENTRIES = 10_000  # about 5 MB; the oldest go first, and with such a TTL they are hardly worth keeping


class IdentityCache:
    """Identities by login, each good for TTL_S from before the query that found it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take the monotonic clock, in seconds."""
        self._monotonic = monotonic
        self._entries: dict[UUID, tuple[float, Identity]] = {}

    def __len__(self) -> int:
        """The number of entries, those that have run out included."""
        return len(self._entries)

    def now_s(self) -> float:
        """The moment to remember an identity by: taken before the query, for its snapshot is no younger."""
        return self._monotonic()

    def find(self, login_id: UUID) -> Identity | None:
        """The identity of a login while it is fresh."""
        entry = self._entries.get(login_id)
        if entry is None:
            return None
        known_since_s, identity = entry
        if self._monotonic() - known_since_s >= TTL_S:
            del self._entries[login_id]
            return None
        return identity

    def remember(self, identity: Identity, *, known_since_s: float) -> None:
        """Keep an identity; see ``now_s``."""
        self._entries.pop(identity.login_id, None)  # a key that is set anew keeps its old place otherwise
        if len(self._entries) >= MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        self._entries[identity.login_id] = (known_since_s, identity)

    def forget(self, login_ids: Iterable[UUID]) -> None:
        """Drop logins that have ended, so that this process at least knows at once."""
        for login_id in login_ids:
            self._entries.pop(login_id, None)
