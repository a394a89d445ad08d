"""OpenAPI 3.1 from the decorators on the handlers.

aiohttp-apispec's own builder writes OpenAPI 2.0 and changes the handlers, so only its decorators are used; this reads
what they left behind.
"""

import copy
import re
from decimal import Decimal
from typing import Any

from aiohttp import web
from aiohttp_apispec.aiohttp_apispec import resolver
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema, fields

from zenzefi import __version__
from zenzefi.web.auth import is_public

OPENAPI_VERSION = "3.1.0"
_NOT_OPERATION_MEMBERS = ("schemas", "responses", "parameters", "produces", "consumes")
_DESCRIPTION = """Register, top up, buy an access token, and send requests through `/api/v1/proxy/{path}`.

Money is a string with two decimals; times are RFC 3339 in UTC. Errors are problem documents (RFC 9457) with a stable
`code`. Send an `Idempotency-Key` with each POST that moves money, and a retry changes nothing."""


class ProblemSchema(Schema):
    """A problem document (RFC 9457)."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    code = fields.String(required=True)
    request_id = fields.String(required=True)
    errors = fields.Dict(keys=fields.String(), values=fields.List(fields.String()))


def build_openapi(app: web.Application) -> dict[str, Any]:
    """The document of all routes whose handlers carry @docs."""
    plugin = MarshmallowPlugin(schema_name_resolver=resolver)
    spec = APISpec(
        title="zenzefi",
        version=__version__,
        openapi_version=OPENAPI_VERSION,
        plugins=[plugin],
        info={"description": _DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
    )
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"})
    spec.components.security_scheme("accessToken", {"type": "apiKey", "in": "header", "name": "X-Access-Token"})
    for route in app.router.routes():
        declared = getattr(route.handler, "__apispec__", None)
        if declared is None or route.resource is None or route.method == "HEAD":
            continue
        for method in _methods(route, declared):
            operation = _operation(plugin, route, declared, method)
            spec.path(path=_path_template(route.resource.canonical), operations={method: operation})
    document: dict[str, Any] = _plain(spec.to_dict())
    return document


def _methods(route: web.AbstractRoute, declared: dict[str, Any]) -> list[str]:
    if route.method != "*":
        return [route.method.lower()]
    return list(declared.get("x-methods", ("get", "post", "put", "patch", "delete")))


def _operation(
    plugin: MarshmallowPlugin, route: web.AbstractRoute, declared: dict[str, Any], method: str
) -> dict[str, Any]:
    operation = {
        key: copy.deepcopy(value)
        for key, value in declared.items()
        if key not in _NOT_OPERATION_MEMBERS and key != "x-methods"
    }
    operation.setdefault("security", [] if is_public(route.handler) else [{"bearer": []}])
    operation["operationId"] = _operation_id(method, route)
    parameters = copy.deepcopy(declared["parameters"])
    for schema in declared["schemas"]:
        if schema["location"] == "json":
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": schema["schema"]}},
            }
        else:
            assert plugin.converter is not None
            parameters += plugin.converter.schema2parameters(schema["schema"], location="query")
    operation["parameters"] = parameters + _path_parameters(route, parameters)
    operation["responses"] = _responses(declared["responses"])
    return operation


def _operation_id(method: str, route: web.AbstractRoute) -> str:
    """The method and the words of the path, such as ``post_tokens_purchase``: unique, because a route is."""
    assert route.resource is not None
    path = _path_template(route.resource.canonical).removeprefix("/api/v1")
    return "_".join([method, *re.findall(r"\w+", path)])


def _path_parameters(route: web.AbstractRoute, declared: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert route.resource is not None
    named = {parameter["name"] for parameter in declared if parameter["in"] == "path"}
    found = re.findall(r"{(\w+)", route.resource.canonical)
    return [
        {"in": "path", "name": name, "required": True, "schema": {"type": "string"}}
        for name in found
        if name not in named
    ]


def _path_template(canonical: str) -> str:
    """aiohttp's {name:regex} as OpenAPI's {name}."""
    return re.sub(r"{(\w+):[^}]*}", r"{\1}", canonical)


def _responses(declared: dict[str, dict[str, Any]]) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": ProblemSchema}}
    responses: dict[str, Any] = {"default": {"description": "A problem document", "content": problem}}
    for code, response in declared.items():
        described: dict[str, Any] = {"description": response.get("description") or "Success"}
        if "schema" in response:
            described["content"] = {"application/json": {"schema": response["schema"]}}
        elif "content" in response:
            described["content"] = response["content"]
        responses[str(code)] = described
    return responses


def _plain(value: Any) -> Any:
    """The document without Decimal, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return float(value)
    return value
