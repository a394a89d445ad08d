"""The errors that a client of the API may see; each slice derives its own from these.

An error's docstring is its human title, ``code`` its stable name and ``status`` its HTTP status (RFC 9457).
"""

from collections.abc import Mapping
from typing import ClassVar, TypeAlias, Union

JsonValue: TypeAlias = Union[None, bool, int, float, str, "list[JsonValue]", "dict[str, JsonValue]"]
JsonObject: TypeAlias = dict[str, JsonValue]


class ZenzefiError(Exception):
    """The request could not be served"""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        detail: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        **extra: JsonValue,
    ) -> None:
        """Take what happened and what to do next, headers for the response, and members for the problem document."""
        super().__init__(detail or self.title())
        self.detail = detail
        self.headers: dict[str, str] = dict(headers or {})
        self.extra = extra

    @classmethod
    def title(cls) -> str:
        """The error's name for a human: the first line of its docstring."""
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0]


class BadRequest(ZenzefiError):
    """The request is malformed"""

    status, code = 400, "bad_request"


class Unauthenticated(ZenzefiError):
    """Valid credentials are required"""

    status, code = 401, "unauthenticated"

    def __init__(self, detail: str | None = None, *, challenge: str = "Bearer") -> None:
        """Take the challenge of the WWW-Authenticate header (RFC 9110, section 11.6.1)."""
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class Forbidden(ZenzefiError):
    """The credentials do not allow this"""

    status, code = 403, "forbidden"


class NotFound(ZenzefiError):
    """There is no such resource"""

    status, code = 404, "not_found"


class Conflict(ZenzefiError):
    """The request does not fit the resource's present state"""

    status, code = 409, "conflict"


class Invalid(ZenzefiError):
    """Some fields are not valid"""

    status, code = 422, "invalid"

    def __init__(self, errors: Mapping[str, list[str]], detail: str | None = None) -> None:
        """Take the messages by field."""
        super().__init__(
            detail or "Correct the fields named in errors and send the request again.",
            errors={field: list[JsonValue](messages) for field, messages in errors.items()},
        )


class Unavailable(ZenzefiError):
    """The service is unavailable for the moment"""

    status, code = 503, "unavailable"

    def __init__(self, detail: str | None = None, *, retry_after_s: int = 2) -> None:
        """Take the seconds after which a retry makes sense."""
        super().__init__(
            detail or f"Try again in {retry_after_s} s.",
            headers={"Retry-After": str(retry_after_s)},
            retry_after=retry_after_s,
        )


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached for the moment"""

    code = "database_unavailable"


class RedisUnavailable(Unavailable):
    """The cache cannot be reached for the moment"""

    code = "cache_unavailable"


class Overloaded(Unavailable):
    """The service is too busy for the moment"""

    code = "overloaded"
