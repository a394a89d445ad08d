"""The proxy's route as the server reaches it directly: all that the middlewares do for it, and nothing else."""

import time
from typing import Final

from aiohttp import hdrs, web
from aiohttp.web_urldispatcher import UrlMappingMatchInfo

from zenzefi.gateway.service import Gateway
from zenzefi.gateway.visit import PREFIX, Visit
from zenzefi.infra.correlation import CURRENT, correlate
from zenzefi.infra.instruments import HTTP_DURATION, HTTP_REQUESTS
from zenzefi.infra.logging import log_request
from zenzefi.web.keys import CORRELATION, RATE_LIMIT, REQUEST_ID
from zenzefi.web.middleware import answer_error, line_of, status_of

_BELOW: Final = f"{PREFIX}/"
# The one other route below the prefix; what only begins like it takes the application's way, too.
_STATUS: Final = f"{PREFIX}/status"


class Entrance:
    """A DirectRoute. It stands in for the middleware ``edge``; the others have nothing to do for this route.

    That is so because the route is public, declares no schemas, and sees to its own rate limit.
    """

    def __init__(self, app: web.Application, gateway: Gateway, route: web.AbstractRoute) -> None:
        """Take the application, and the route as its router has it."""
        resource = route.resource
        assert resource is not None
        self._gateway = gateway
        self._route = resource.canonical
        self._duration = HTTP_DURATION.labels(self._route)
        # What the router would have found; nobody reads the path out of it, for that one is decoded.
        self._match = UrlMappingMatchInfo({}, route)
        self._match.add_app(app)
        self._match.freeze()

    def takes(self, request: web.Request) -> bool:
        """Whether the request is the proxy's, and none that aiohttp has to invite the body of first."""
        message = request._message  # noqa: SLF001  the request's own properties are several times as slow
        target = message.path
        return target.startswith(_BELOW) and not target.startswith(_STATUS) and hdrs.EXPECT not in message.headers

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Give the request its ids, pass it through, turn its error into a problem document, and write its line."""
        started = time.perf_counter()
        request._match_info = self._match  # noqa: SLF001  as Application._handle does
        correlation = correlate(request._message.headers)  # noqa: SLF001  see takes()
        token = CURRENT.set(correlation)
        visit = Visit(self._gateway, request, correlation)
        response: web.StreamResponse | None = None
        code = None
        try:
            response = await visit.pass_through()
        except Exception as error:
            request[CORRELATION], request[REQUEST_ID] = correlation, correlation.request_id
            request[RATE_LIMIT] = visit.limit_fields()
            response, code = answer_error(request, error, request_id=correlation.request_id)
            if response is None:
                raise
        finally:
            self._take_note(request, visit, response, code, time.perf_counter() - started)
            CURRENT.reset(token)
        return response

    def _take_note(
        self, request: web.Request, visit: Visit, response: web.StreamResponse | None, code: str | None, spent_s: float
    ) -> None:
        status = status_of(response, code)
        HTTP_REQUESTS.labels(request.method, self._route, status).inc()
        self._duration.observe(spent_s)
        fields = line_of(
            request,
            visit.correlation,
            route=self._route,
            status=status,
            code=code,
            duration_s=spent_s,
            bytes_out=response.content_length or 0 if response is not None else 0,
            client_ip=visit.client.text,
        )
        fields.update(visit.log_fields())
        log_request(fields)
