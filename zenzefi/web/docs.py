"""The API's description for people: Swagger UI and ReDoc, both served from here, offline."""

from pathlib import Path

from aiohttp import web

from zenzefi.web.auth import public
from zenzefi.web.openapi import build_openapi
from zenzefi.web.responses import encode_json

_STATIC = Path(__file__).parent / "static"
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
# Both pages bring inline styles; ReDoc searches in a worker that it makes from a blob.
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; worker-src blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_SWAGGER_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>zenzefi API</title>
<link rel="icon" href="/docs/static/favicon-32x32.png"><link rel="stylesheet" href="/docs/static/swagger-ui.css"></head>
<body><div id="ui"></div><script src="/docs/static/swagger-ui-bundle.js"></script>
<script src="/docs/static/start.js"></script></body></html>
"""
_SWAGGER_START = """SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui", deepLinking: true, validatorUrl: null});
"""
_REDOC_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>zenzefi API</title>
<link rel="icon" href="/docs/static/favicon-32x32.png"></head>
<body><redoc spec-url="/openapi.json" disable-telemetry></redoc>
<script src="/docs/static/redoc.standalone.js"></script></body></html>
"""


# Built at the first request: it takes tens of milliseconds, and the routes do not change while the process runs.
_DOCUMENT = web.AppKey[list[str]]("_DOCUMENT")


@public
async def get_openapi(request: web.Request) -> web.Response:
    """The OpenAPI document."""
    kept = request.app[_DOCUMENT]
    if not kept:
        kept.append(encode_json(build_openapi(request.app)))
    return web.Response(text=kept[0], content_type="application/json")


@public
async def get_swagger_ui(_request: web.Request) -> web.Response:
    """Swagger UI on the document."""
    return _page(_SWAGGER_PAGE)


@public
async def get_redoc(_request: web.Request) -> web.Response:
    """ReDoc on the document."""
    return _page(_REDOC_PAGE)


@public
async def get_asset(request: web.Request) -> web.StreamResponse:
    """One of the vendored browser files."""
    name = request.match_info["name"]
    if name == "start.js":
        return web.Response(text=_SWAGGER_START, content_type="text/javascript")
    if name not in _ASSETS:
        raise web.HTTPNotFound
    headers = {"Content-Type": _ASSETS[name], "Cache-Control": "public, max-age=86400"}
    return web.FileResponse(_STATIC / name, headers=headers)


def add_docs(app: web.Application) -> None:
    """Mount the pages; only where DOCS_ENABLED says so."""
    app[_DOCUMENT] = []
    app.add_routes(
        [
            web.get("/openapi.json", get_openapi),
            web.get("/docs", get_swagger_ui),
            web.get("/redoc", get_redoc),
            web.get("/docs/static/{name}", get_asset),
        ]
    )


def _page(html: str) -> web.Response:
    return web.Response(text=html, content_type="text/html", headers={"Content-Security-Policy": _CSP})
