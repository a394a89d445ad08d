"""HTTP of usage."""

from typing import Final

from aiohttp import web

from zenzefi.rollups import service
from zenzefi.rollups.schemas import UsageQuerySchema, UsageReportSchema
from zenzefi.web.declare import docs, querystring_schema, response_schema
from zenzefi.web.keys import CTX, IDENTITY, QUERY
from zenzefi.web.responses import json_response

_REPORT: Final = UsageReportSchema()


@docs(
    tags=["usage"],
    summary="What my tokens used, by hour or by day",
    description="Without `to` up to now; without `from` 24 hours or 30 days. At most 744 hours or 1,100 days at once. "
    "Counts every metered request, the denied and the failed ones, too, within about a second of its end.",
)
@querystring_schema(UsageQuerySchema())
@response_schema(UsageReportSchema(), 200, description="The usage, by bucket")
async def get_usage(request: web.Request) -> web.Response:
    """GET /api/v1/users/me/usage."""
    report = await service.report_usage(request.app[CTX], user_id=request[IDENTITY].user_id, **request[QUERY])
    return json_response(_REPORT.dump(report))


ROUTES: Final = (web.get("/api/v1/users/me/usage", get_usage),)
