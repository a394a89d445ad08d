"""What can be wrong with a token or with what is asked of it."""

from typing import Final

from zenzefi.errors import Conflict, NotFound, Unauthenticated, ZenzefiError

# A challenge is mandatory with 401 (RFC 9110, section 15.5.2); the parameter names the header that carries the token.
GATEWAY_CHALLENGE: Final = 'AccessToken realm="gateway", header="X-Access-Token"'


class TokenRejected(Unauthenticated):
    """The access token cannot be used"""

    code = "token_rejected"

    def __init__(self) -> None:
        """Say nothing about which of the reasons it is: the holder of a string is not always the token's owner."""
        super().__init__(
            "The token is unknown, expired, refunded or revoked, or its owner's account is closed.",
            challenge=GATEWAY_CHALLENGE,
        )


class TokenNotFound(NotFound):
    """There is no such token"""

    code = "token_not_found"


class TokenActivated(Conflict):
    """The token was used already and cannot be refunded"""

    code = "token_activated"


class TokenEnded(Conflict):
    """The token has ended"""

    code = "token_ended"


class UnknownDuration(ZenzefiError):
    """No token of this duration is sold"""

    status, code = 422, "unknown_duration"


class UnknownScope(ZenzefiError):
    """There is no such scope"""

    status, code = 422, "unknown_scope"


class DeviceReleaseTooSoon(ZenzefiError):
    """The device of this token was released less than an hour ago"""

    status, code = 429, "device_release_too_soon"

    def __init__(self, *, retry_after_s: int) -> None:
        """Take the whole seconds until the next release is allowed, at least 1."""
        super().__init__(
            f"A device can be released once per hour; try again in {retry_after_s} s.",
            headers={"Retry-After": str(retry_after_s)},
            retry_after=retry_after_s,
        )


class BundleNotFound(NotFound):
    """There is no such bundle"""

    code = "bundle_not_found"


class BundleNameTaken(Conflict):
    """Another bundle on offer has this name"""

    code = "bundle_name_taken"
