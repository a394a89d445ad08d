"""Who may call a route: a signed-in user unless the route says otherwise."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from zenzefi.audit.models import Actor, ActorKind
from zenzefi.errors import Forbidden, Unauthenticated
from zenzefi.web.addresses import client_ip
from zenzefi.web.identity import Identity
from zenzefi.web.keys import CTX, FIND_IDENTITY, IDENTITY, REQUEST_ID

Handler = TypeVar("Handler", bound=Callable[[web.Request], Awaitable[web.StreamResponse]])

MAX_USER_AGENT_CHARS = 255
# A JWT of ours has about 400 characters; a longer text is none and need not be parsed.
MAX_JWT_CHARS = 2048


def public(handler: Handler) -> Handler:
    """Mark a handler that needs no JWT: it is open to all, or checks credentials of another kind itself."""
    handler.__public__ = True  # type: ignore[attr-defined]
    return handler


def superuser(handler: Handler) -> Handler:
    """Mark a handler for superusers only."""
    handler.__superuser__ = True  # type: ignore[attr-defined]
    return handler


def is_public(handler: object) -> bool:
    """Whether ``public`` marked the handler."""
    return getattr(handler, "__public__", False)


async def authenticate(request: web.Request) -> Identity:
    """The identity of the request's bearer token (RFC 6750).

    Raises:
        Unauthenticated: no token, more than one, a bad or expired one, or its login has ended.
        Forbidden: the route is for superusers.
    """
    ctx = request.app[CTX]
    claims = ctx.jwt.verify(_bearer_token(request), now=ctx.now())
    identity = await request.app[FIND_IDENTITY](ctx, user_id=claims.user_id, login_id=claims.login_id)
    if identity is None:
        raise Unauthenticated("This login has ended. Sign in again.")
    if getattr(request.match_info.handler, "__superuser__", False) and not identity.is_superuser:
        raise Forbidden("Only a superuser may do this.")
    return identity


def actor_of(request: web.Request) -> Actor:
    """Whom an audit row of this request names; of a public route, its client without a user."""
    identity = request.get(IDENTITY)
    address = client_ip(request)
    return Actor(
        kind=ActorKind.USER if identity else ActorKind.SYSTEM,
        user_id=identity.user_id if identity else None,
        ip=str(address) if address else None,
        user_agent=user_agent_of(request),
        request_id=request[REQUEST_ID],
    )


def user_agent_of(request: web.Request) -> str | None:
    """The User-Agent in a form that the database can keep: bounded, and without bytes that are no UTF-8."""
    text = request.headers.get("User-Agent")
    if text is None:
        return None
    return text[:MAX_USER_AGENT_CHARS].encode(errors="replace").decode().replace("\0", "?")


def _bearer_token(request: web.Request) -> str:
    values = request.headers.getall("Authorization", ())
    if len(values) != 1:
        raise Unauthenticated("Send one Authorization header: Bearer, a space, and the access_token of /auth/login.")
    scheme, _, token = values[0].partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > MAX_JWT_CHARS:
        raise Unauthenticated("Send Authorization: Bearer, a space, and the access_token of /auth/login.")
    return token
