"""HTTP of accounts and logins."""

from aiohttp import web

from zenzefi.accounts import logins, referrals, service
from zenzefi.accounts.models import TokenPair, UserChanges
from zenzefi.accounts.schemas import (
    LoginSchema,
    ReferralsSchema,
    ReferredUserSchema,
    RefreshTokenSchema,
    RegisterQuerySchema,
    RegisterSchema,
    TokenPairSchema,
    UpdateUserSchema,
    UserSchema,
)
from zenzefi.web.auth import actor_of, public
from zenzefi.web.declare import docs, json_schema, querystring_schema, response_schema
from zenzefi.web.keys import CTX, IDENTITY, JSON, QUERY
from zenzefi.web.paging import PageQuerySchema, encode_cursor, page_of
from zenzefi.web.responses import json_response

_USER = UserSchema()
_REFERRED_USER = ReferredUserSchema()


@public
@docs(
    tags=["accounts"],
    summary="Make an account",
    description="409 `email_taken` or `username_taken`; 422 `unknown_referral_code`.",
)
@json_schema(RegisterSchema())
@querystring_schema(RegisterQuerySchema())
@response_schema(UserSchema(), 201, description="The new account")
async def post_register(request: web.Request) -> web.Response:
    """POST /api/v1/auth/register."""
    user = await service.register(
        request.app[CTX], **request[JSON], referral_code=request[QUERY].get("ref"), actor=actor_of(request)
    )
    return json_response(_USER.dump(user), status=201)


@public
@docs(
    tags=["accounts"],
    summary="Sign in",
    description="401 `invalid_credentials` for an unknown address, a wrong password and a banned user alike.",
)
@json_schema(LoginSchema())
@response_schema(TokenPairSchema(), 200, description="The tokens of a new login")
async def post_login(request: web.Request) -> web.Response:
    """POST /api/v1/auth/login."""
    return _pair_response(await logins.log_in(request.app[CTX], **request[JSON], actor=actor_of(request)))


@public
@docs(
    tags=["accounts"],
    summary="Spend a refresh token for new tokens",
    description="A refresh token is good for one use. One that comes a second time, even at the same moment, ends its "
    "login, since it may have been stolen: refresh one at a time, and sign in again after 401 `invalid_refresh_token`.",
)
@json_schema(RefreshTokenSchema())
@response_schema(TokenPairSchema(), 200, description="The next tokens of the same login")
async def post_refresh(request: web.Request) -> web.Response:
    """POST /api/v1/auth/refresh."""
    return _pair_response(await logins.refresh(request.app[CTX], **request[JSON], actor=actor_of(request)))


@public
@docs(
    tags=["accounts"],
    summary="Sign out",
    description="Ends the login of the refresh token: its access tokens are refused within 1 s. An unknown token is "
    "204 as well.",
    responses={204: {"description": "The login has ended"}},
)
@json_schema(RefreshTokenSchema())
async def post_logout(request: web.Request) -> web.Response:
    """POST /api/v1/auth/logout."""
    await logins.log_out(request.app[CTX], **request[JSON], actor=actor_of(request))
    return web.Response(status=204)


@docs(tags=["accounts"], summary="Who I am")
@response_schema(UserSchema(), 200, description="The signed-in user")
async def get_me(request: web.Request) -> web.Response:
    """GET /api/v1/users/me."""
    user = await service.get_user(request.app[CTX], user_id=request[IDENTITY].user_id)
    return json_response(_USER.dump(user))


@docs(
    tags=["accounts"],
    summary="Change my name or password",
    description="A new password needs `current_password` (403 `wrong_current_password`) and ends all other logins.",
)
@json_schema(UpdateUserSchema())
@response_schema(UserSchema(), 200, description="The user after the change")
async def patch_me(request: web.Request) -> web.Response:
    """PATCH /api/v1/users/me."""
    user = await service.update_user(
        request.app[CTX],
        identity=request[IDENTITY],
        changes=UserChanges(**request[JSON]),
        actor=actor_of(request),
    )
    return json_response(_USER.dump(user))


@docs(tags=["accounts"], summary="What my referral code has brought")
@querystring_schema(PageQuerySchema())
@response_schema(ReferralsSchema(), 200, description="The totals, and a page of the users who came by it")
async def get_referrals(request: web.Request) -> web.Response:
    """GET /api/v1/users/me/referrals."""
    ctx, page = request.app[CTX], page_of(request)
    totals, users, next_id = await referrals.look_at_referrals(
        ctx, user_id=request[IDENTITY].user_id, before=page.after_uuid(), limit=page.limit
    )
    return json_response(
        {
            "referral_code": totals.referral_code,
            "referral_link": referrals.link_of(ctx, totals.referral_code),
            "total_referrals": totals.referrals,
            "qualifying_referrals": totals.qualifying,
            "total_bonus_earned": totals.earned,
            "referred_users": _REFERRED_USER.dump(users, many=True),
            "next_cursor": None if next_id is None else encode_cursor(next_id),
        }
    )


def _pair_response(pair: TokenPair) -> web.Response:
    return json_response(
        {
            "access_token": pair.access_token,
            "token_type": "bearer",
            "expires_in": pair.expires_in_s,
            "refresh_token": pair.refresh_token,
        },
        headers={"Cache-Control": "no-store"},  # RFC 6749, section 5.1
    )


ROUTES = [
    web.post("/api/v1/auth/register", post_register),
    web.post("/api/v1/auth/login", post_login),
    web.post("/api/v1/auth/refresh", post_refresh),
    web.post("/api/v1/auth/logout", post_logout),
    web.get("/api/v1/users/me", get_me),
    web.patch("/api/v1/users/me", patch_me),
    web.get("/api/v1/users/me/referrals", get_referrals),
]
