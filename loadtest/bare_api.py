"""The floor of the API: `python -m loadtest.bare_api PORT`, a bare aiohttp handler that answers JSON after one query.

No authentication, limits, checks, headers, metrics or logs; what the API's routes add is measured against it. The
query is that of the balance.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import uvloop
from aiohttp import web

from zenzefi.devstack.ports import LOOPBACK
from zenzefi.settings import Settings

_POOL = web.AppKey("pool", asyncpg.Pool)


async def _pool(app: web.Application) -> AsyncIterator[None]:
    settings = Settings.from_env()
    async with asyncpg.create_pool(
        host=settings.postgres_server,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=settings.postgres_password,
        database=settings.postgres_db,
        min_size=1,
        max_size=settings.postgres_pool_size,
    ) as app[_POOL]:
        yield


async def get_balance(request: web.Request) -> web.Response:
    """The balance of the user that the path names."""
    user_id = UUID(request.match_info["user_id"])
    balance = await request.app[_POOL].fetchval("SELECT balance FROM ledger_accounts WHERE user_id = $1", user_id)
    return web.Response(text=json.dumps({"balance": str(balance)}), content_type="application/json")


def main() -> None:
    """Serve until SIGTERM."""
    app = web.Application()
    app.cleanup_ctx.append(_pool)
    app.router.add_get("/{user_id}", get_balance)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    web.run_app(app, host=LOOPBACK, port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
