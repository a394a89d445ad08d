"""HTTP of the gateway: the proxy itself, a token's status, and the sessions of a token."""

from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from aiohttp import web

from zenzefi.access.errors import TokenNotFound
from zenzefi.gateway import service, sessions
from zenzefi.gateway.credentials import DEVICE_HEADER, read_token
from zenzefi.gateway.entrance import Entrance
from zenzefi.gateway.forward import defer_continue
from zenzefi.gateway.schemas import SessionPageSchema, StatusSchema, session_json, status_json
from zenzefi.gateway.service import Gateway
from zenzefi.gateway.visit import PREFIX, Visit
from zenzefi.infra import tracing
from zenzefi.ratelimit.middleware import note as note_limit
from zenzefi.web.auth import public
from zenzefi.web.declare import docs, querystring_schema, response_schema
from zenzefi.web.direct import DIRECT_ROUTES
from zenzefi.web.keys import CORRELATION, CTX, IDENTITY, LOG_FIELDS, RATE_LIMIT
from zenzefi.web.paging import PageQuerySchema, page_of, page_response
from zenzefi.web.responses import json_response

GATEWAY: web.AppKey[Gateway] = web.AppKey("gateway", Gateway)

_CREDENTIALS: Final[dict[str, object]] = {"security": [{"accessToken": []}]}


def _header(name: str, description: str, *, required: bool) -> dict[str, object]:
    return {
        "in": "header",
        "name": name,
        "required": required,
        "description": description,
        "schema": {"type": "string", "minLength": 8, "maxLength": 255, "pattern": "^[!-~]+$"},
    }


async def gateway_lifecycle(app: web.Application) -> AsyncIterator[None]:
    """Run the gateway's background work for as long as the application runs."""
    async with service.open_gateway(app[CTX]) as gateway:
        app[GATEWAY] = gateway
        if not tracing.is_on():  # its middleware surrounds the route with a span
            route = next(route for route in app.router.routes() if route.handler is proxy)
            app[DIRECT_ROUTES].append(Entrance(app, gateway, route))
        yield


@docs(
    tags=["gateway"],
    summary="Send a request to the upstream",
    description="Any method and any path; request and answer are streamed. The first answer starts the token's clock.",
    parameters=[_header(DEVICE_HEADER, "Identifies the device: a token works on one at a time", required=True)],
    responses={200: {"description": "Whatever the upstream answers, with X-Token-Expires-At", "content": {"*/*": {}}}},
    **_CREDENTIALS,
)
@public
async def proxy(request: web.Request) -> web.StreamResponse:
    """Check, forward and meter one request."""
    visit = Visit(request.app[GATEWAY], request, request[CORRELATION])
    try:
        return await visit.pass_through()
    finally:
        request[LOG_FIELDS] = visit.log_fields()
        request[RATE_LIMIT] = visit.limit_fields()


@docs(
    tags=["gateway"],
    summary="Show what a token is good for, without starting its clock",
    parameters=[_header(DEVICE_HEADER, "Asks whether this device holds the token", required=False)],
    **_CREDENTIALS,
)
@response_schema(StatusSchema(), 200, description="The token's status")
@public
async def get_status(request: web.Request) -> web.Response:
    """Tell the holder of a token what it is good for."""
    token_hash, device = read_token(request.headers)
    status = await service.tell_status(request.app[GATEWAY], token_hash=token_hash, device=device)
    note_limit(request, status.decision)
    return json_response(status_json(status))


@docs(tags=["tokens"], summary="List the sessions in which devices used one of my tokens, the newest first")
@querystring_schema(PageQuerySchema())
@response_schema(SessionPageSchema(), 200, description="One page of sessions")
async def list_sessions(request: web.Request) -> web.Response:
    """List the sessions of one of one's own tokens."""
    page = page_of(request)
    found, next_id = await sessions.list_sessions(
        request.app[CTX],
        user_id=request[IDENTITY].user_id,
        token_id=_token_id(request),
        before=page.after_uuid(),
        limit=page.limit,
    )
    return page_response([session_json(session) for session in found], next_id)


def _token_id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["token_id"])
    except ValueError:
        raise TokenNotFound from None


ROUTES: Final = (
    # HEAD, too: as a request to the upstream it would start the clock that this only asks about.
    web.get(f"{PREFIX}/status", get_status),
    # The gateway invites a body itself, once the request has passed all checks.
    web.route("*", f"{PREFIX}/{{path:.*}}", proxy, expect_handler=defer_continue),
    web.get("/api/v1/tokens/{token_id}/sessions", list_sessions),
)
