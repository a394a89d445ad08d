"""HTTP of the gateway: the proxy itself, a token's status, and the sessions of a token."""

from collections.abc import AsyncIterator, Iterable
from typing import Final
from uuid import UUID

from aiohttp import web

from zenzefi.access.errors import TokenNotFound
from zenzefi.audit.models import Actor, ActorKind
from zenzefi.gateway import service, sessions
from zenzefi.gateway.credentials import DEVICE_HEADER, read_credentials, read_token
from zenzefi.gateway.errors import BadPath
from zenzefi.gateway.forward import defer_continue, forward
from zenzefi.gateway.headers import Provenance
from zenzefi.gateway.models import Admission
from zenzefi.gateway.paths import canonicalise
from zenzefi.gateway.schemas import SessionPageSchema, StatusSchema, session_json, status_json
from zenzefi.gateway.service import Gateway
from zenzefi.ratelimit.middleware import note as note_limit
from zenzefi.web.addresses import client_ip, client_ip_text, is_from_trusted_proxy
from zenzefi.web.auth import public, user_agent_of
from zenzefi.web.declare import docs, querystring_schema, response_schema
from zenzefi.web.keys import CORRELATION, CTX, IDENTITY, LOG_FIELDS, REQUEST_ID
from zenzefi.web.paging import PageQuerySchema, page_of, page_response
from zenzefi.web.responses import format_time, json_response

GATEWAY: web.AppKey[Gateway] = web.AppKey("gateway", Gateway)

PREFIX: Final = "/api/v1/proxy"
EXPIRY_HEADER: Final = "X-Token-Expires-At"

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
    gateway = request.app[GATEWAY]
    credentials = read_credentials(request.headers)
    try:
        path = canonicalise(_upstream_path(request))
    except BadPath:
        await service.require_usable(gateway, token=credentials.token, device=credentials.device)
        raise
    admission = await service.admit(
        gateway, token=credentials.token, device=credentials.device, method=request.method, path=path
    )
    provenance = _provenance(request, admission)
    fields = request[LOG_FIELDS] = {
        "user_id": provenance.user_id,
        "token_id": provenance.token_id,
        "device": admission.device.hint,
    }
    note_limit(request, admission.decision)
    with service.follow(gateway, admission, ip=client_ip(request), user_agent=user_agent_of(request)) as stream:

        async def on_answer() -> Iterable[tuple[str, str]]:
            grant = await service.start_clock(gateway, stream, actor=lambda: _actor(request, admission))
            assert grant.expires_at is not None
            return ((EXPIRY_HEADER, format_time(grant.expires_at)),)

        try:
            return await forward(
                request,
                upstream=gateway.ctx.upstream,
                path=path,
                provenance=provenance,
                stream=stream,
                on_answer=on_answer,
            )
        finally:
            fields["outcome"] = stream.outcome.value
            fields["bytes_in"], fields["bytes_out"] = stream.bytes_in, stream.bytes_out
            if stream.upstream_s is not None:
                fields["upstream_ms"] = round(stream.upstream_s * 1000, 3)


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
    token, device = read_token(request.headers)
    status = await service.tell_status(request.app[GATEWAY], token=token, device=device)
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


def _upstream_path(request: web.Request) -> str:
    """The request target behind the prefix, as it was sent: aiohttp's own path is decoded."""
    target = request.raw_path
    if not target.startswith(f"{PREFIX}/"):
        raise BadPath(f"The path does not begin with {PREFIX}/ as it was sent.")
    return target[len(PREFIX) :]


def _provenance(request: web.Request, admission: Admission) -> Provenance:
    correlation = request[CORRELATION]
    address = client_ip_text(request)
    told_scheme = request.headers.get("X-Forwarded-Proto") if is_from_trusted_proxy(request) else None
    return Provenance(
        client_ip=address or "unknown",  # RFC 7239, section 6.2
        scheme="https" if told_scheme == "https" else request.scheme,
        host=request.host,
        user_id=str(admission.grant.user_id),
        token_id=str(admission.grant.token_id),
        request_id=correlation.request_id,
        trace=correlation.header_lines(),
    )


def _actor(request: web.Request, admission: Admission) -> Actor:
    return Actor(
        kind=ActorKind.USER,
        user_id=admission.grant.user_id,
        ip=client_ip_text(request),
        user_agent=user_agent_of(request),
        request_id=request[REQUEST_ID],
    )


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
