"""HTTP for superusers: which backups there are, and asking for one more."""

import asyncio
from typing import Final

from aiohttp import web

from zenzefi.audit import service as audit
from zenzefi.backups.listing import list_backups
from zenzefi.backups.schemas import BackupListSchema, BackupRequestSchema
from zenzefi.backups.service import require_setup
from zenzefi.jobs import Job
from zenzefi.web.auth import actor_of, superuser
from zenzefi.web.declare import docs, response_schema
from zenzefi.web.keys import CTX
from zenzefi.web.responses import json_response

# One for all who ask: while it waits or runs, asking again is answered with it.
_JOB_ID: Final = f"{Job.BACK_UP_DATABASE}:asked-for"


@superuser
@docs(
    tags=["admin"],
    summary="List the backups, the newest first",
    description="409 `no_backup_repository`: there is no bucket. 503 `storage_unavailable`: it cannot be reached.",
)
@response_schema(BackupListSchema(), 200, description="All backups")
async def get_backups(request: web.Request) -> web.Response:
    """List what the object store has."""
    # In a loop of its own: botocore's import and its client take 0.4 s, during which every other request would wait.
    items = await asyncio.to_thread(asyncio.run, list_backups(request.app[CTX].settings))
    return json_response({"items": items})


@superuser
@docs(
    tags=["admin"],
    summary="Ask for a backup",
    description="A worker makes it. While it waits or runs, asking again gives the same job. 409 "
    "`no_backup_repository`: there is no bucket, or no key to encrypt for.",
)
@response_schema(BackupRequestSchema(), 202, description="The job")
async def post_backup(request: web.Request) -> web.Response:
    """Enqueue a backup."""
    ctx = request.app[CTX]
    require_setup(ctx.settings)
    async with ctx.transaction() as conn:
        await audit.record(
            conn,
            ctx=ctx,
            actor=actor_of(request),
            action="backup.request",
            resource_type="backup",
            resource_id=_JOB_ID,
        )
        # Last, so that no job comes of a request that is not in the audit log.
        job_id = await ctx.queue.enqueue(Job.BACK_UP_DATABASE, job_id=_JOB_ID)
    return json_response({"job_id": job_id}, status=202)


ROUTES: Final = (
    web.get("/api/v1/admin/backups", get_backups),
    web.post("/api/v1/admin/backups", post_backup),
)
