"""HTTP of bundles: anybody looks at them, users buy them, superusers say what they hold."""

from typing import Final
from uuid import UUID

from aiohttp import web

from zenzefi.access import bundles
from zenzefi.access.bundle_models import Bundle, BundleTerms
from zenzefi.access.bundle_schemas import (
    BundleChangesSchema,
    BundlePageSchema,
    BundlePurchaseSchema,
    BundleSchema,
    BundleTermsSchema,
    bundle_json,
)
from zenzefi.access.errors import BundleNotFound
from zenzefi.access.schemas import issued_token_json
from zenzefi.errors import JsonObject
from zenzefi.infra.db import Connection
from zenzefi.web.auth import actor_of, public, superuser
from zenzefi.web.declare import docs, json_schema, querystring_schema, response_schema
from zenzefi.web.idempotency import KEY_PARAMETER, respond_once
from zenzefi.web.keys import CTX, IDENTITY, JSON
from zenzefi.web.paging import PageQuerySchema, page_of, page_response
from zenzefi.web.responses import json_response


@public
@docs(tags=["bundles"], summary="List the bundles on offer, the oldest first")
@querystring_schema(PageQuerySchema())
@response_schema(BundlePageSchema(), 200, description="A page of bundles")
async def list_bundles(request: web.Request) -> web.Response:
    """List what is on offer."""
    page = page_of(request)
    found, next_id = await bundles.list_bundles(request.app[CTX], after=page.after_uuid(), limit=page.limit)
    return page_response([_json_of(request, bundle) for bundle in found], next_id)


@public
@docs(tags=["bundles"], summary="Show a bundle")
@response_schema(BundleSchema(), 200, description="The bundle")
async def get_bundle(request: web.Request) -> web.Response:
    """Show one bundle."""
    bundle = await bundles.get_bundle(request.app[CTX], bundle_id=_bundle_id(request))
    return json_response(_json_of(request, bundle))


@docs(tags=["bundles"], summary="Buy a bundle: all its tokens at once", parameters=[KEY_PARAMETER])
@response_schema(BundlePurchaseSchema(), 201, description="The tokens; their strings are shown this once")
async def purchase_bundle(request: web.Request) -> web.Response:
    """Buy one bundle from the wallet."""
    ctx, bundle_id = request.app[CTX], _bundle_id(request)

    async def purchase(conn: Connection) -> JsonObject:
        bought = await bundles.purchase(
            conn, ctx=ctx, actor=actor_of(request), user_id=request[IDENTITY].user_id, bundle_id=bundle_id
        )
        now = ctx.now()
        return {
            "bundle_name": bought.bundle_name,
            "tokens": [issued_token_json(issued, now=now) for issued in bought.tokens],
            "cost_znc": f"{bought.cost:.2f}",
            "new_balance": f"{bought.new_balance:.2f}",
        }

    return await respond_once(request, purchase)


@superuser
@docs(tags=["bundles"], summary="Offer a new bundle")
@json_schema(BundleTermsSchema())
@response_schema(BundleSchema(), 201, description="The bundle")
async def post_bundle(request: web.Request) -> web.Response:
    """Make a bundle."""
    terms = BundleTerms(**request[JSON])
    bundle = await bundles.create_bundle(request.app[CTX], terms=terms, actor=actor_of(request))
    return json_response(_json_of(request, bundle), status=201)


@superuser
@docs(tags=["bundles"], summary="Change a bundle; tokens that were sold stay as they are")
@json_schema(BundleChangesSchema(partial=True))
@response_schema(BundleSchema(), 200, description="The bundle after the change")
async def patch_bundle(request: web.Request) -> web.Response:
    """Change some of a bundle's terms."""
    bundle = await bundles.change_bundle(
        request.app[CTX], bundle_id=_bundle_id(request), changes=request[JSON], actor=actor_of(request)
    )
    return json_response(_json_of(request, bundle))


@superuser
@docs(
    tags=["bundles"],
    summary="Take a bundle off the offer",
    responses={204: {"description": "It is no longer offered; the tokens that were sold stay"}},
)
async def delete_bundle(request: web.Request) -> web.Response:
    """Delete a bundle softly."""
    await bundles.delete_bundle(request.app[CTX], bundle_id=_bundle_id(request), actor=actor_of(request))
    return web.Response(status=204)


def _json_of(request: web.Request, bundle: Bundle) -> JsonObject:
    return bundle_json(bundle, price=bundles.price_now(request.app[CTX], bundle.terms))


def _bundle_id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["bundle_id"])
    except ValueError:
        raise BundleNotFound from None


BUNDLE_ROUTES: Final = (
    web.get("/api/v1/bundles", list_bundles),
    web.post("/api/v1/bundles", post_bundle),
    web.get("/api/v1/bundles/{bundle_id}", get_bundle),
    web.patch("/api/v1/bundles/{bundle_id}", patch_bundle),
    web.delete("/api/v1/bundles/{bundle_id}", delete_bundle),
    web.post("/api/v1/bundles/{bundle_id}/purchase", purchase_bundle),
)
