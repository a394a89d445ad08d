"""Passwords: argon2id (RFC 9106) in a small thread pool, so that hashing never holds the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from argon2 import PasswordHasher as Argon2
from argon2.exceptions import InvalidHashError, VerificationError

from zenzefi.errors import Overloaded

Args = TypeVarTuple("Args")
T = TypeVar("T")

# OWASP's second recommendation for argon2id: 19 MiB, 2 passes, 1 lane; about 30 ms of one core.
TIME_COST = 2
MEMORY_KIB = 19 * 1024
PARALLELISM = 1
THREADS = 2  # more would only share the same cores and hold 19 MiB each
MAX_WAITING = 64  # about 1 s of work; past it a quick refusal serves better than a queue


class PasswordHasher:
    """Hashes and verifies; close it to end its threads."""

    def __init__(self) -> None:
        """Start no thread yet: the pool does at its first work."""
        self._argon2 = Argon2(time_cost=TIME_COST, memory_cost=MEMORY_KIB, parallelism=PARALLELISM)
        self._pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="argon2")
        self._waiting = 0
        # Verified against when there is no such user, so that the answer takes the same time.
        self._decoy = self._argon2.hash("no password of anybody")

    async def hash(self, password: str) -> str:
        """The encoded hash with its own salt and parameters.

        Raises:
            Overloaded: MAX_WAITING others wait already.
        """
        return await self._in_pool(self._argon2.hash, password)

    async def verify(self, encoded: str | None, password: str) -> bool:
        """Whether the password is the one that was hashed; ``None`` costs the same time and is False.

        Raises:
            Overloaded: MAX_WAITING others wait already.
        """
        matches = await self._in_pool(self._verify, encoded or self._decoy, password)
        return matches and encoded is not None

    def needs_rehash(self, encoded: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._argon2.check_needs_rehash(encoded)

    def close(self) -> None:
        """End the threads; what waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _verify(self, encoded: str, password: str) -> bool:
        try:
            return self._argon2.verify(encoded, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_pool(self, function: Callable[[*Args], T], *arguments: *Args) -> T:
        if self._waiting >= MAX_WAITING:
            raise Overloaded("Too many sign-ins at this moment. Try again in a few seconds.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        finally:
            self._waiting -= 1
