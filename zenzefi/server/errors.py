"""What the server refuses before any handler runs, and why it may refuse to start."""

from typing import ClassVar

from zenzefi.errors import ZenzefiError

SERVED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class ServerError(Exception):
    """The server cannot start; the message says why and what to do about it."""


class RefusedRequest(ZenzefiError):
    """The request was refused"""

    # The texts are fixed: nothing that a client sent is ever repeated in a refusal.
    explanation: ClassVar[str] = "The connection is closed."

    def __init__(self) -> None:
        """Take nothing: a refusal tells all it has to say by its class."""
        super().__init__(self.explanation)


class MalformedRequest(RefusedRequest):
    """The request is not well-formed HTTP"""

    status, code = 400, "malformed_request"
    explanation = "Send one valid HTTP/1.1 request; its start line, header fields or body framing are not."


class AmbiguousHeader(RefusedRequest):
    """A header that decides about access came twice or misspelt"""

    status, code = 400, "ambiguous_header"
    explanation = "Send each of the service's own headers once, spelt with hyphens."


class MethodRefused(RefusedRequest):
    """The method is not served anywhere"""

    status, code = 405, "method_refused"
    explanation = "Use one of the methods that the Allow header names."

    def __init__(self) -> None:
        """Name the methods that are served (RFC 9110, section 15.5.6)."""
        super().__init__()
        self.headers["Allow"] = ", ".join(SERVED_METHODS)


class ExpectationRefused(RefusedRequest):
    """The expectation cannot be met"""

    status, code = 417, "expectation_failed"
    explanation = "The only expectation that can be met is 100-continue."


class HeadTooLate(RefusedRequest):
    """The request did not arrive in time"""

    status, code = 408, "request_timeout"
    explanation = "Open a new connection and send the whole request head at once."


class TargetTooLong(RefusedRequest):
    """The request target is too long"""

    status, code = 414, "target_too_long"
    explanation = "Shorten the path or the query."


class HeadTooLarge(RefusedRequest):
    """The request header fields are too large"""

    status, code = 431, "head_too_large"
    explanation = "Send fewer or shorter header fields."


class MethodUnknown(RefusedRequest):
    """The method is not known here"""

    status, code = 501, "method_unknown"
    explanation = "Use a method that HTTP defines; they are written in capitals."


class VersionRefused(RefusedRequest):
    """The HTTP version is not served"""

    status, code = 505, "http_version_not_supported"
    explanation = "Use HTTP/1.1."
