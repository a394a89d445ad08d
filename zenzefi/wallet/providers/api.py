"""Asking a provider's HTTP API: deadlines, retries that its idempotency makes safe, and errors that tell no secret."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import structlog
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, StreamReader

from zenzefi.infra.business_instruments import PAYMENT_PROVIDER_CALLS
from zenzefi.settings import PaymentProviderName
from zenzefi.wallet.payment_errors import PaymentProviderError, PaymentProviderUnavailable, PaymentRefusedByProvider
from zenzefi.wallet.providers.answers import JsonMembers, Unreadable, parse_object

# Before each attempt, in seconds: the first at once, the others apart enough for a restart behind a load balancer.
ATTEMPT_DELAYS_S = (0.0, 0.2, 0.6)
MAX_ANSWER_BYTES = 256 * 1024
CONNECT_TIMEOUT_S = 4.0
_NOT_NOW = frozenset({202, 408, 409, 425, 429})
_MAX_REASON_CHARS = 200

# JSON text, or the fields of a form.
Body: TypeAlias = bytes | Mapping[str, str]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderApi:
    """One provider's API. It connects anew for each question: payments are rare, and nothing is left to be closed.

    ``timeout_s`` bounds a question with all its attempts; one attempt gets half, so that a hung one leaves room.
    """

    provider: PaymentProviderName
    url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float

    async def get(self, path: str) -> JsonMembers | None:
        """Read something; None when there is none such."""
        status, answer = await self._ask("GET", path, {}, None)
        if status == 404:
            self._count("answered")
            return None
        return self._accepted(status, answer)

    async def post(self, path: str, *, headers: Mapping[str, str] | None = None, body: Body) -> JsonMembers:
        """Make something. ``headers`` carry the provider's idempotence key, or what is asked is idempotent by nature.

        Raises:
            PaymentRefusedByProvider: the provider will not.
        """
        status, answer = await self._ask("POST", path, headers or {}, body)
        return self._accepted(status, answer)

    async def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: Body | None
    ) -> tuple[int, JsonMembers]:
        """Ask until there is an answer; (status, body)."""
        if isinstance(body, bytes):
            headers = {**headers, "Content-Type": "application/json"}
        started, trouble = time.monotonic(), "no time was left"
        for delay_s in ATTEMPT_DELAYS_S:
            await asyncio.sleep(delay_s)
            left_s = self.timeout_s - (time.monotonic() - started)
            if left_s <= 0:
                break
            timeout = ClientTimeout(total=min(self.timeout_s / 2, left_s), connect=CONNECT_TIMEOUT_S)
            try:
                async with (
                    ClientSession(
                        timeout=timeout, headers=self.headers, cookie_jar=DummyCookieJar(), trust_env=False
                    ) as session,
                    session.request(
                        method, self.url + path, headers=headers, data=body, allow_redirects=False
                    ) as response,
                ):
                    if response.status < 500 and response.status not in _NOT_NOW:
                        return response.status, parse_object(await _read(response.content))
                    trouble = f"status {response.status}"
            except (ClientError, OSError) as error:  # TimeoutError is an OSError
                # By its name only: the text of some of aiohttp's errors repeats the request's headers.
                trouble = type(error).__name__
            except Unreadable as error:
                self._count("unreadable")
                log.error("payment_provider_unreadable", url=self.url, path=path, reason=str(error))  # noqa: TRY400
                raise PaymentProviderError from None
        self._count("unavailable")
        log.warning("payment_provider_unavailable", url=self.url, trouble=trouble)
        raise PaymentProviderUnavailable

    def _accepted(self, status: int, answer: JsonMembers) -> JsonMembers:
        if 200 <= status < 300:
            self._count("answered")
            return answer
        self._count("refused")
        error = answer.get("error")  # Stripe's is an object, YooKassa's answer is the error itself
        detail = error if isinstance(error, dict) else answer
        reason = {name: str(detail.get(name))[:_MAX_REASON_CHARS] for name in ("code", "type", "parameter", "param")}
        log.error("payment_provider_refused", url=self.url, status=status, **reason)
        if 300 <= status < 400:
            raise PaymentProviderError
        raise PaymentRefusedByProvider

    def _count(self, outcome: str) -> None:
        PAYMENT_PROVIDER_CALLS.labels(self.provider, outcome).inc()


async def _read(content: StreamReader) -> bytes:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise Unreadable("it is too long")
    return bytes(body)
