"""What the gateway answers itself, instead of the upstream."""

from zenzefi.access.errors import GATEWAY_CHALLENGE
from zenzefi.errors import BadRequest, Conflict, Forbidden, Unauthenticated, Unavailable, ZenzefiError


class TokenRequired(Unauthenticated):
    """The request names no access token"""

    code = "token_required"

    def __init__(self) -> None:
        """Name the header."""
        super().__init__("Send the token in one X-Access-Token header.", challenge=GATEWAY_CHALLENGE)


class DeviceRequired(Forbidden):
    """The request names no device"""

    code = "device_required"


class BadDeviceId(BadRequest):
    """The device identifier is malformed"""

    code = "bad_device_id"


class ScopeDenied(Forbidden):
    """The token's scope does not cover this request"""

    code = "scope_denied"


class DeviceConflict(Conflict):
    """Another device holds this token"""

    code = "device_conflict"

    def __init__(self, *, remaining_ms: int) -> None:
        """Take the rest of the other device's lease."""
        retry_after_s = max(1, -(-remaining_ms // 1000))
        super().__init__(
            f"A token works on one device at a time. The other device holds it for {retry_after_s} s, or longer if it "
            "sends another request.",
            headers={"Retry-After": str(retry_after_s)},
            retry_after=retry_after_s,
        )


class TooManyStreams(ZenzefiError):
    """Too many requests of this token are on their way"""

    status, code = 429, "too_many_streams"

    def __init__(self, *, limit: int) -> None:
        """Take how many may be."""
        super().__init__(
            f"At most {limit} requests of a token may be on their way at once. Wait for one to end, or end one.",
            headers={"Retry-After": "1"},
            limit=limit,
            retry_after=1,
        )


class BadPath(BadRequest):
    """The path cannot be forwarded safely"""

    code = "bad_path"


class BadUpload(BadRequest):
    """The request body is malformed"""

    code = "bad_body"


class UploadTooSlow(ZenzefiError):
    """The request body did not arrive in time"""

    status, code = 408, "upload_timeout"


class ClientGone(ZenzefiError):
    """The client closed the connection"""

    # Nobody reads this answer; logs and metrics count it, with the status that nginx uses for it.
    status, code = 499, "client_gone"


class AccessEnded(Unauthenticated):
    """The token ended while the request ran"""

    code = "access_ended"

    def __init__(self, reason: str) -> None:
        """Take why it ended."""
        super().__init__(f"The token's use ended while the request ran: {reason}.", challenge=GATEWAY_CHALLENGE)


class UpstreamUnreachable(ZenzefiError):
    """The upstream cannot be reached"""

    status, code = 502, "upstream_unreachable"


class BadAnswer(ZenzefiError):
    """The upstream gave an answer that cannot be passed on"""

    status, code = 502, "upstream_bad_answer"


class UpstreamTimeout(ZenzefiError):
    """The upstream did not answer in time"""

    status, code = 504, "upstream_timeout"


class UpstreamUnavailable(Unavailable):
    """The upstream is unavailable for the moment"""

    code = "upstream_unavailable"
