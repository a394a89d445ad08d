"""Typed keys of what the application and a request carry."""

from typing import Any, Protocol
from uuid import UUID

from aiohttp import web

from zenzefi.context import Context
from zenzefi.infra.correlation import Correlation
from zenzefi.web.identity import Identity


class FindIdentity(Protocol):
    """Looks a login up; None when it has ended or its user may not sign in."""

    async def __call__(self, ctx: Context, /, *, user_id: UUID, login_id: UUID) -> Identity | None:
        """Answer for one login of one user."""


CTX = web.AppKey("CTX", Context)
# Accounts lie above the web layer, so the application hands their look-up down.
FIND_IDENTITY = web.AppKey[FindIdentity]("FIND_IDENTITY")

REQUEST_ID = web.RequestKey("REQUEST_ID", str)
CORRELATION = web.RequestKey("CORRELATION", Correlation)
IDENTITY = web.RequestKey("IDENTITY", Identity)
JSON = web.RequestKey[dict[str, Any]]("JSON")
QUERY = web.RequestKey[dict[str, Any]]("QUERY")
# The RateLimit headers of the response.
RATE_LIMIT = web.RequestKey[tuple[tuple[str, str], ...]]("RATE_LIMIT")
# What a handler adds to the request's one log line.
LOG_FIELDS = web.RequestKey[dict[str, Any]]("LOG_FIELDS")
