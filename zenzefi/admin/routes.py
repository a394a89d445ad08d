"""HTTP for superusers."""

from typing import Final

from aiohttp import web

from zenzefi.admin import service
from zenzefi.admin.schemas import RateLimitSchema
from zenzefi.web.auth import actor_of, superuser
from zenzefi.web.declare import docs, response_schema
from zenzefi.web.keys import CTX
from zenzefi.web.responses import json_response

_SUBJECT: Final = "An address or an account's e-mail (auth), a user's id (api), a token's id (proxy)."


@superuser
@docs(tags=["admin"], summary="Show what is used and left of a rate limit", description=_SUBJECT)
@response_schema(RateLimitSchema(), 200, description="The limit")
async def get_rate_limit(request: web.Request) -> web.Response:
    """Tell what a subject has used of its limit."""
    limit_class, subject = request.match_info["limit_class"], request.match_info["subject"]
    limiter, charge = await service.look_at_limit(request.app[CTX], limit_class=limit_class, subject=subject)
    return json_response(
        {
            "class": limiter.limit_class,
            "subject": subject,
            "limit": limiter.policy.limit,
            "window": limiter.policy.window_s,
            "used": limiter.policy.limit - charge.free,
            "remaining": charge.free,
        }
    )


@superuser
@docs(
    tags=["admin"],
    summary="Forget what a subject has used of its rate limit",
    description=f"{_SUBJECT} It is let in again within 1 s.",
    responses={204: {"description": "The limit is unused"}},
)
async def delete_rate_limit(request: web.Request) -> web.Response:
    """Reset a subject's limit."""
    await service.reset_limit(
        request.app[CTX],
        limit_class=request.match_info["limit_class"],
        subject=request.match_info["subject"],
        actor=actor_of(request),
    )
    return web.Response(status=204)


ROUTES: Final = (
    web.get("/api/v1/admin/ratelimits/{limit_class}/{subject}", get_rate_limit),
    web.delete("/api/v1/admin/ratelimits/{limit_class}/{subject}", delete_rate_limit),
)
