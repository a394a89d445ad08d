"""JSON Web Tokens (RFC 7519) of the API: HS256 through PyJWT, with the time by our own clock."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import jwt

from zenzefi.errors import Unauthenticated

ISSUER = "zenzefi"
AUDIENCE = "zenzefi-api"
ALGORITHM = "HS256"
# Checking a signature and parsing two JSON objects takes 50 µs, a fifth of what the cheapest route takes, and a client
# sends the same token for an hour. About 4 MB; the oldest go first.
MAX_REMEMBERED = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Whom a token speaks for, and by which login."""

    user_id: UUID
    login_id: UUID


class JwtSigner:
    """Signs and checks tokens with one secret."""

    def __init__(self, secret_key: str, *, lifetime: timedelta) -> None:
        """Take the secret (32 bytes or more) and how long a token is good for."""
        self._secret_key = secret_key
        self.lifetime = lifetime
        # Tokens that were found good, with the second in which they expire.
        self._good: dict[str, tuple[Claims, int]] = {}

    def sign(self, claims: Claims, *, token_id: UUID, now: datetime) -> str:
        """A token that is good from ``now`` for the lifetime."""
        return jwt.encode(
            {
                "sub": str(claims.user_id),
                "sid": str(claims.login_id),
                "jti": str(token_id),
                "iss": ISSUER,
                "aud": AUDIENCE,
                "iat": int(now.timestamp()),
                "exp": int((now + self.lifetime).timestamp()),
            },
            self._secret_key,
            algorithm=ALGORITHM,
        )

    def verify(self, token: str, *, now: datetime) -> Claims:
        """The claims of a good token.

        Raises:
            Unauthenticated: the signature, a claim or the time does not fit.
        """
        claims, expires_at = self._good.get(token) or self._remember(token, self._decode(token))
        if now.timestamp() >= expires_at:
            raise Unauthenticated("The access token has expired. Refresh it or sign in again.")
        return claims

    def _remember(self, token: str, good: tuple[Claims, int]) -> tuple[Claims, int]:
        if len(self._good) >= MAX_REMEMBERED:
            del self._good[next(iter(self._good))]
        self._good[token] = good
        return good

    def _decode(self, token: str) -> tuple[Claims, int]:
        try:
            payload = jwt.decode(
                token,
                self._secret_key,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                # The time is checked against the database's clock; PyJWT would take the machine's.
                options={"require": ["sub", "sid", "jti", "iat", "exp"], "verify_exp": False, "verify_iat": False},
            )
            return Claims(user_id=UUID(payload["sub"]), login_id=UUID(payload["sid"])), int(payload["exp"])
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            raise Unauthenticated("The access token is not valid. Sign in again.") from None
