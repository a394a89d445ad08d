"""HTTP of access tokens: buying, listing, refunding, rotating, and moving to another device."""

from uuid import UUID

from aiohttp import web

from zenzefi.access import service
from zenzefi.access.bundle_routes import BUNDLE_ROUTES
from zenzefi.access.errors import TokenNotFound
from zenzefi.access.schemas import (
    DeviceReleaseSchema,
    IssuedTokenSchema,
    PurchaseSchema,
    RefundSchema,
    TokenPageSchema,
    TokenQuerySchema,
    TokenSchema,
    issued_token_json,
    token_json,
)
from zenzefi.errors import JsonObject
from zenzefi.infra.db import Connection
from zenzefi.web.auth import actor_of
from zenzefi.web.declare import docs, json_schema, querystring_schema, response_schema
from zenzefi.web.idempotency import KEY_HEADER, respond_once
from zenzefi.web.keys import CTX, IDENTITY, JSON, QUERY
from zenzefi.web.paging import page_of, page_response
from zenzefi.web.responses import json_response

_IDEMPOTENCY_KEY = {"in": "header", "name": KEY_HEADER, "schema": {"type": "string", "maxLength": 255}}


@docs(tags=["tokens"], summary="Buy an access token", parameters=[_IDEMPOTENCY_KEY])
@json_schema(PurchaseSchema())
@response_schema(IssuedTokenSchema(), 201, description="The token; its string is shown this once")
async def post_purchase(request: web.Request) -> web.Response:
    """Buy one token from the wallet."""
    ctx, body = request.app[CTX], request[JSON]

    async def purchase(conn: Connection) -> JsonObject:
        issued = await service.purchase(
            conn,
            ctx=ctx,
            actor=actor_of(request),
            user_id=request[IDENTITY].user_id,
            duration_hours=body["duration_hours"],
            scope=body["scope"],
        )
        return issued_token_json(issued, now=ctx.now())

    return await respond_once(request, purchase)


@docs(tags=["tokens"], summary="List my access tokens, the newest first")
@querystring_schema(TokenQuerySchema())
@response_schema(TokenPageSchema(), 200, description="One page of tokens")
async def list_tokens(request: web.Request) -> web.Response:
    """List one's own tokens."""
    ctx, page = request.app[CTX], page_of(request)
    tokens, next_id = await service.list_tokens(
        ctx,
        user_id=request[IDENTITY].user_id,
        active_only=request[QUERY]["active_only"],
        before=page.after_uuid(),
        limit=page.limit,
    )
    now = ctx.now()
    return page_response([token_json(token, now=now) for token in tokens], next_id)


@docs(tags=["tokens"], summary="Show one of my access tokens")
@response_schema(TokenSchema(), 200, description="The token, without its string")
async def get_token(request: web.Request) -> web.Response:
    """Show one of one's own tokens."""
    ctx = request.app[CTX]
    token = await service.get_token(ctx, user_id=request[IDENTITY].user_id, token_id=_token_id(request))
    return json_response(token_json(token, now=ctx.now()))


@docs(tags=["tokens"], summary="Give back a token that was never used, for the price paid")
@response_schema(RefundSchema(), 200, description="The refund")
async def delete_token(request: web.Request) -> web.Response:
    """Refund one of one's own tokens."""
    refund = await service.refund(
        request.app[CTX],
        actor=actor_of(request),
        user_id=request[IDENTITY].user_id,
        token_id=_token_id(request),
    )
    return json_response({"revoked": True, "refund_amount": refund.amount, "new_balance": refund.new_balance})


@docs(tags=["tokens"], summary="Replace the token's string; the old one dies within a second")
@response_schema(IssuedTokenSchema(), 200, description="The token; its new string is shown this once")
async def post_rotate(request: web.Request) -> web.Response:
    """Give one of one's own tokens a new string."""
    ctx = request.app[CTX]
    issued = await service.rotate(
        ctx, actor=actor_of(request), user_id=request[IDENTITY].user_id, token_id=_token_id(request)
    )
    return json_response(issued_token_json(issued, now=ctx.now()))


@docs(tags=["tokens"], summary="Free the token for another device, once per hour")
@response_schema(DeviceReleaseSchema(), 200, description="The device is free")
async def post_release_device(request: web.Request) -> web.Response:
    """Free the device lease of one of one's own tokens."""
    next_release_at = await service.release_device(
        request.app[CTX],
        actor=actor_of(request),
        user_id=request[IDENTITY].user_id,
        token_id=_token_id(request),
    )
    return json_response({"released": True, "next_release_at": next_release_at})


def _token_id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["token_id"])
    except ValueError:
        raise TokenNotFound from None


ROUTES = (
    web.post("/api/v1/tokens/purchase", post_purchase),
    web.get("/api/v1/tokens/my-tokens", list_tokens),
    web.get("/api/v1/tokens/{token_id}", get_token),
    web.delete("/api/v1/tokens/{token_id}", delete_token),
    web.post("/api/v1/tokens/{token_id}/rotate", post_rotate),
    web.post("/api/v1/tokens/{token_id}/release-device", post_release_device),
    *BUNDLE_ROUTES,
)
