"""What a web process serves: the two applications over one context."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from zenzefi.app import create_app, create_internal_app
from zenzefi.context import open_context
from zenzefi.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The applications of the public and the internal port, and what to call when the process is asked to stop."""

    public: web.Application
    internal: web.Application
    on_drain: Callable[[], None]


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Open the context and the applications that use it."""
    async with open_context(settings) as context:

        def on_drain() -> None:
            context.draining = True

        yield Service(public=create_app(context), internal=create_internal_app(context), on_drain=on_drain)
