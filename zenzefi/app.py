"""The application: the one list of slices and middlewares."""

from collections.abc import AsyncIterator

from aiohttp import web

from zenzefi.access.routes import ROUTES as ACCESS_ROUTES
from zenzefi.accounts.routes import ROUTES as ACCOUNTS_ROUTES
from zenzefi.accounts.service import find_identity
from zenzefi.admin.routes import ROUTES as ADMIN_ROUTES
from zenzefi.backups.routes import ROUTES as BACKUP_ROUTES
from zenzefi.context import Context
from zenzefi.gateway.routes import ROUTES as GATEWAY_ROUTES
from zenzefi.gateway.routes import gateway_lifecycle
from zenzefi.health.routes import INTERNAL_ROUTES
from zenzefi.health.routes import ROUTES as HEALTH_ROUTES
from zenzefi.infra import tracing
from zenzefi.infra.instruments import ROUTE
from zenzefi.ratelimit.middleware import limit, limiter_lifecycle
from zenzefi.rollups.routes import ROUTES as USAGE_ROUTES
from zenzefi.wallet.mock_payment_routes import MOCK_PAGE_ROUTES
from zenzefi.wallet.payment_routes import ROUTES as PAYMENT_ROUTES
from zenzefi.wallet.providers import offers_mock_payment
from zenzefi.wallet.routes import MOCK_PAYMENT_ROUTES
from zenzefi.wallet.routes import ROUTES as WALLET_ROUTES
from zenzefi.web.direct import DIRECT_ROUTES, PlainRoutes
from zenzefi.web.docs import add_docs
from zenzefi.web.keys import CTX, FIND_IDENTITY
from zenzefi.web.metrics import METRICS_ROUTES
from zenzefi.web.middleware import check_input, edge, guard, set_common_headers
from zenzefi.web.tracing import traced
from zenzefi.web.validation import MAX_BODY_BYTES

MIDDLEWARES = (edge, guard, limit, check_input)
ROUTES: tuple[web.RouteDef, ...] = (
    *ACCOUNTS_ROUTES,
    *WALLET_ROUTES,
    *PAYMENT_ROUTES,
    *ACCESS_ROUTES,
    *GATEWAY_ROUTES,
    *USAGE_ROUTES,
    *HEALTH_ROUTES,
    *ADMIN_ROUTES,
    *BACKUP_ROUTES,
)


def create_app(ctx: Context) -> web.Application:
    """The public application; it uses the context and does not close it."""
    app = _application(ctx)
    app.add_routes(ROUTES)
    if offers_mock_payment(ctx.settings):
        app.add_routes((*MOCK_PAYMENT_ROUTES, *MOCK_PAGE_ROUTES))
    if ctx.settings.docs_enabled:
        add_docs(app)
    app[DIRECT_ROUTES] = []
    app.cleanup_ctx.append(limiter_lifecycle)
    app.cleanup_ctx.append(gateway_lifecycle)
    app.cleanup_ctx.append(_plain_routes)
    _declare_routes(app)
    return app


async def _plain_routes(app: web.Application) -> AsyncIterator[None]:
    app[DIRECT_ROUTES].append(PlainRoutes(app))
    yield


def create_internal_app(ctx: Context) -> web.Application:
    """The application of the internal port: for orchestrators and monitoring, not for clients."""
    app = _application(ctx)
    app.add_routes((*INTERNAL_ROUTES, *METRICS_ROUTES))
    _declare_routes(app)
    return app


def _application(ctx: Context) -> web.Application:
    middlewares = (traced, *MIDDLEWARES) if tracing.is_on() else MIDDLEWARES
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY_BYTES)
    app[CTX] = ctx
    app[FIND_IDENTITY] = find_identity
    app.on_response_prepare.append(set_common_headers)
    return app


def _declare_routes(app: web.Application) -> None:
    """Let metrics tell the routes apart, by their templates."""
    ROUTE.allow(resource.canonical for resource in app.router.resources())
