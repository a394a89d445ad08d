"""What a handler declares of itself: aiohttp-apispec's decorators, with types.

``validation.py`` checks requests by what they leave on the handler, ``openapi.py`` describes the routes by it.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import aiohttp_apispec
from aiohttp import web
from marshmallow import Schema

Handler = TypeVar("Handler", bound=Callable[[web.Request], Awaitable[web.StreamResponse]])


def docs(**members: Any) -> Callable[[Handler], Handler]:
    """Members of the OpenAPI operation: tags, summary, description, parameters, responses, security."""
    return cast(Callable[[Handler], Handler], aiohttp_apispec.docs(**members))


def json_schema(schema: Schema) -> Callable[[Handler], Handler]:
    """The JSON body that the handler finds, checked, in request[JSON]."""
    return cast(Callable[[Handler], Handler], aiohttp_apispec.json_schema(schema))


def querystring_schema(schema: Schema) -> Callable[[Handler], Handler]:
    """The query that the handler finds, checked, in request[QUERY]."""
    return cast(Callable[[Handler], Handler], aiohttp_apispec.querystring_schema(schema))


def response_schema(schema: Schema, status: int = 200, *, description: str) -> Callable[[Handler], Handler]:
    """One of the answers, by status."""
    return cast(Callable[[Handler], Handler], aiohttp_apispec.response_schema(schema, status, description=description))
