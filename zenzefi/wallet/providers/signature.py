"""Signed events: HMAC-SHA256 over the time and the raw body, as Stripe defines it (docs.stripe.com/webhooks).

The header is ``t=<Unix seconds>,v1=<hex>[,v1=<hex>…]``; several signatures come while the sender's secret changes.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from zenzefi.wallet.payment_errors import BadSignature, StaleNotice

# A captured event cannot be replayed later than that; the clocks of two honest machines differ by less.
TOLERANCE = timedelta(seconds=300)
_HEADER = re.compile(r"[a-z0-9_]{1,16}=[0-9A-Za-z]{1,128}(?:,[a-z0-9_]{1,16}=[0-9A-Za-z]{1,128}){1,9}")
_TIME = re.compile(r"[0-9]{1,12}")


def sign(body: bytes, *, secret: str, at: datetime) -> str:
    """The header of an event that is sent at an instant."""
    seconds = int(at.timestamp())
    return f"t={seconds},v1={_digest(body, secret=secret, seconds=str(seconds))}"


def verify(body: bytes, *, headers: Sequence[str], secrets: Sequence[str], now: datetime) -> None:
    """Check that one of the secrets has signed the body just now; comparing takes the same time wherever they differ.

    Raises:
        BadSignature: there is not exactly one header, it cannot be read, or no secret has made one of its signatures.
        StaleNotice: the signature is right and more than TOLERANCE away from now.
    """
    if len(headers) != 1 or not _HEADER.fullmatch(headers[0]):
        raise BadSignature
    parts = [part.split("=", 1) for part in headers[0].split(",")]
    times = [value for name, value in parts if name == "t"]
    signatures = [value for name, value in parts if name == "v1"]
    if len(times) != 1 or not _TIME.fullmatch(times[0]):
        raise BadSignature
    expected = [_digest(body, secret=secret, seconds=times[0]) for secret in secrets if secret]
    # Every pair is compared, so that the time does not tell which secret or signature was right.
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in signatures]
    if not any(matches):
        raise BadSignature
    if abs(now.timestamp() - int(times[0])) > TOLERANCE.total_seconds():
        raise StaleNotice


def _digest(body: bytes, *, secret: str, seconds: str) -> str:
    return hmac.new(secret.encode(), seconds.encode() + b"." + body, hashlib.sha256).hexdigest()
