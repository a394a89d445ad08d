"""The limits of the API's own routes: by client address where people sign in, by user everywhere else."""

from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from zenzefi.audit import service as audit
from zenzefi.context import Context
from zenzefi.ratelimit import service
from zenzefi.ratelimit.errors import RateLimitExceeded
from zenzefi.ratelimit.ring import LimitClass
from zenzefi.ratelimit.subject import Decision
from zenzefi.web.addresses import client_ip
from zenzefi.web.auth import actor_of
from zenzefi.web.keys import CTX, IDENTITY, RATE_LIMIT

_SIGN_IN: Final = frozenset({"/api/v1/auth/register", "/api/v1/auth/login"})


async def limiter_lifecycle(app: web.Application) -> AsyncIterator[None]:
    """Stop the limiter's background work with the application."""
    yield
    await service.limiter_of(app[CTX]).aclose()


@web.middleware
async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Charge the request to its subject; the gateway's routes see to their own limit."""
    ctx = request.app[CTX]
    if IDENTITY in request:
        await _charge_user(ctx, request)
    elif request.method == "POST" and request.path in _SIGN_IN:
        note(request, await service.admit(ctx, LimitClass.AUTH, service.address_subject(client_ip(request))))
    return await handler(request)


def note(request: web.Request, decision: Decision | None) -> None:
    """Have the response carry what is left."""
    if decision is not None:
        request[RATE_LIMIT] = decision.fields()


async def _charge_user(ctx: Context, request: web.Request) -> None:
    identity = request[IDENTITY]
    try:
        note(request, await service.admit(ctx, LimitClass.API, service.user_subject(identity.user_id)))
    except RateLimitExceeded:
        if not (identity.is_superuser and ctx.settings.rate_limit_superuser_bypass):
            raise
        resource = request.match_info.route.resource
        async with ctx.transaction() as conn:
            await audit.record(
                conn,
                ctx=ctx,
                actor=actor_of(request),
                action="ratelimit.bypass",
                resource_type="route",
                resource_id=f"{request.method} {resource.canonical if resource is not None else request.path}",
            )
