"""GET /health for everybody; /livez and /readyz for the orchestrator, on the internal port."""

from aiohttp import web

from zenzefi.health import service
from zenzefi.health.models import HealthStatus
from zenzefi.health.schemas import HealthSchema
from zenzefi.web.auth import public
from zenzefi.web.declare import docs, response_schema
from zenzefi.web.keys import CTX
from zenzefi.web.responses import json_response

# An answer from a cache on the way would tell of a past that nobody asked for.
_UNCACHED = {"Cache-Control": "no-store"}


@docs(
    tags=["health"],
    summary="The service's health",
    description="degraded: only the upstream cannot be reached. The timestamp tells when this was found.",
)
@response_schema(HealthSchema(), 200, description="healthy, or degraded")
@response_schema(HealthSchema(), 503, description="unhealthy: the database or the cache cannot be reached")
@public
async def get_health(request: web.Request) -> web.Response:
    """Tell the service's health."""
    snapshot = await service.get_health(request.app[CTX])
    return json_response(
        {"status": snapshot.status, "timestamp": snapshot.taken_at},
        status=503 if snapshot.status is HealthStatus.UNHEALTHY else 200,
        headers=_UNCACHED,
    )


@public
async def get_livez(_request: web.Request) -> web.Response:
    """Tell that the event loop turns; nothing else is asked, for a restart would not mend anything else."""
    return json_response({"status": "alive"}, headers=_UNCACHED)


@public
async def get_readyz(request: web.Request) -> web.Response:
    """Tell whether this process should be given requests."""
    checks = await service.check_readiness(request.app[CTX])
    ready = all(check.passed for check in checks)
    details = {check.name: "ok" if check.passed else check.detail for check in checks}
    return json_response(
        {"status": "ready" if ready else "not ready", "checks": details},
        status=200 if ready else 503,
        headers=_UNCACHED,
    )


ROUTES = [web.get("/health", get_health)]
INTERNAL_ROUTES = [web.get("/livez", get_livez), web.get("/readyz", get_readyz)]
