"""The short way to the one route that nearly all requests take: past aiohttp's router and middlewares."""

from collections.abc import Awaitable
from typing import Protocol

from aiohttp import web


class DirectRoute(Protocol):
    """What the server asks before it hands a request to the application."""

    def takes(self, request: web.Request, /) -> bool:
        """Whether the application would hand this request to this route, and needs to do nothing else for it."""

    def handle(self, request: web.Request, /) -> Awaitable[web.StreamResponse]:
        """Do all that the middlewares and the handler would do."""


class SentResponse(web.StreamResponse):
    """A response of which nothing is left to be sent when the handler gives it back."""

    _eof_sent = True


# There where an application has such a route.
DIRECT_ROUTE = web.AppKey[DirectRoute]("DIRECT_ROUTE")
