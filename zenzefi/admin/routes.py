"""HTTP for superusers."""

from typing import Final
from uuid import UUID

from aiohttp import web

from zenzefi.access import service as access
from zenzefi.accounts import moderation
from zenzefi.accounts import service as accounts
from zenzefi.accounts.moderation import FlagChanges
from zenzefi.accounts.schemas import UserSchema
from zenzefi.admin import service
from zenzefi.admin.schemas import (
    AdjustmentSchema,
    AdminTokenPageSchema,
    AdminTokenQuerySchema,
    AuditEntrySchema,
    AuditPageSchema,
    AuditQuerySchema,
    FlagsSchema,
    RateLimitSchema,
    RevocationQuerySchema,
    RevocationSchema,
    UserPageSchema,
    UserQuerySchema,
    admin_token_json,
)
from zenzefi.audit import service as audit
from zenzefi.errors import JsonObject, NotFound
from zenzefi.infra.db import Connection
from zenzefi.wallet import adjustments
from zenzefi.wallet.schemas import TransactionSchema, transaction_json
from zenzefi.web.auth import actor_of, superuser
from zenzefi.web.declare import docs, json_schema, querystring_schema, response_schema
from zenzefi.web.idempotency import KEY_PARAMETER, respond_once
from zenzefi.web.keys import CTX, IDENTITY, JSON, QUERY
from zenzefi.web.paging import page_of, page_response
from zenzefi.web.responses import json_response

_SUBJECT: Final = "An address or an account's e-mail (auth), a user's id (api), a token's id (proxy)."
_USER: Final = UserSchema()
_AUDIT_ENTRY: Final = AuditEntrySchema()


@superuser
@docs(tags=["admin"], summary="List users, the newest first")
@querystring_schema(UserQuerySchema())
@response_schema(UserPageSchema(), 200, description="A page of users")
async def list_users(request: web.Request) -> web.Response:
    """List or search users."""
    page, query = page_of(request), request[QUERY]
    users, next_id = await moderation.list_users(
        request.app[CTX],
        search=query["search"],
        is_active=query["is_active"],
        before=page.after_uuid(),
        limit=page.limit,
    )
    return page_response(_USER.dump(users, many=True), next_id)


@superuser
@docs(
    tags=["admin"],
    summary="Ban a user or welcome them back, make them a superuser or an ordinary user",
    description="409 `own_account`: nobody changes the state of their own account, so that one superuser remains.",
)
@json_schema(FlagsSchema())
@response_schema(UserSchema(), 200, description="The user after the change")
async def patch_user(request: web.Request) -> web.Response:
    """Set another user's flags."""
    user = await service.update_flags(
        request.app[CTX],
        superuser_id=request[IDENTITY].user_id,
        user_id=_id_of(request, "user_id"),
        changes=FlagChanges(**request[JSON]),
        actor=actor_of(request),
    )
    return json_response(_USER.dump(user))


@superuser
@docs(tags=["admin"], summary="Correct a user's wallet by a transaction of its own", parameters=[KEY_PARAMETER])
@json_schema(AdjustmentSchema())
@response_schema(TransactionSchema(), 201, description="The transaction")
async def post_adjustment(request: web.Request) -> web.Response:
    """Give to a wallet or take from it."""
    # Looked up first: to take from nobody's wallet is not to find it too empty.
    user = await accounts.get_user(request.app[CTX], user_id=_id_of(request, "user_id"))

    async def adjust(conn: Connection) -> JsonObject:
        entry = await adjustments.adjust(
            conn, ctx=request.app[CTX], user_id=user.id, **request[JSON], actor=actor_of(request)
        )
        return transaction_json(entry)

    return await respond_once(request, adjust)


@superuser
@docs(tags=["admin"], summary="List access tokens of one user or of all, the newest first")
@querystring_schema(AdminTokenQuerySchema())
@response_schema(AdminTokenPageSchema(), 200, description="A page of tokens")
async def list_all_tokens(request: web.Request) -> web.Response:
    """List anybody's tokens."""
    ctx, page, query = request.app[CTX], page_of(request), request[QUERY]
    tokens, next_id = await access.list_all_tokens(
        ctx,
        user_id=query["user_id"],
        active_only=query["active_only"],
        before=page.after_uuid(),
        limit=page.limit,
    )
    now = ctx.now()
    return page_response([admin_token_json(token, now=now) for token in tokens], next_id)


@superuser
@docs(
    tags=["admin"],
    summary="Revoke anybody's token; it dies within a second",
    description="With `refund=true` the price paid goes back, but never for an activated token: 409 `token_activated`.",
)
@querystring_schema(RevocationQuerySchema())
@response_schema(RevocationSchema(), 200, description="The token has ended")
async def revoke_token(request: web.Request) -> web.Response:
    """End anybody's token."""
    revocation = await access.revoke(
        request.app[CTX],
        actor=actor_of(request),
        token_id=_id_of(request, "token_id"),
        with_refund=request[QUERY]["refund"],
    )
    return json_response({"revoked": True, "user_id": revocation.user_id, "refund_amount": revocation.refund_amount})


@superuser
@docs(tags=["admin"], summary="Read the audit log, the newest first")
@querystring_schema(AuditQuerySchema())
@response_schema(AuditPageSchema(), 200, description="A page of the log")
async def list_audit_log(request: web.Request) -> web.Response:
    """List who changed what."""
    page, query = page_of(request), request[QUERY]
    entries, next_id = await audit.list_entries(
        request.app[CTX],
        user_id=query["user_id"],
        action=query["action"],
        resource_type=query["resource_type"],
        before=page.after_uuid(),
        limit=page.limit,
    )
    return page_response(_AUDIT_ENTRY.dump(entries, many=True), next_id)


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


def _id_of(request: web.Request, name: str) -> UUID:
    try:
        return UUID(request.match_info[name])
    except ValueError:
        raise NotFound from None


ROUTES: Final = (
    web.get("/api/v1/admin/users", list_users),
    web.patch("/api/v1/admin/users/{user_id}", patch_user),
    web.post("/api/v1/admin/users/{user_id}/adjustments", post_adjustment),
    web.get("/api/v1/admin/tokens", list_all_tokens),
    web.delete("/api/v1/admin/tokens/{token_id}", revoke_token),
    web.get("/api/v1/admin/audit-logs", list_audit_log),
    web.get("/api/v1/admin/ratelimits/{limit_class}/{subject}", get_rate_limit),
    web.delete("/api/v1/admin/ratelimits/{limit_class}/{subject}", delete_rate_limit),
)
