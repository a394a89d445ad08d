"""What superusers see of backups by HTTP, and how they ask for one."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from arq.constants import job_key_prefix

from tests.admin.superusers import audit_rows, make_superuser
from tests.support.inprocess import run_app
from tests.support.people import Person
from zenzefi.backups.service import back_up
from zenzefi.context import Context
from zenzefi.infra.queue import open_queue_client, queue_key
from zenzefi.jobs import Queue

PATH = "/api/v1/admin/backups"


@pytest.fixture
async def backup_client(backup_ctx: Context) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client of an application with a repository."""
    async with (
        run_app(backup_ctx) as url,
        aiohttp.ClientSession(url, cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        yield session


async def test_superusers_list_backups_and_ask_for_one_which_is_audited(
    backup_ctx: Context, backup_client: aiohttp.ClientSession
) -> None:
    superuser = await make_superuser(backup_ctx, backup_client)
    manifest = await back_up(backup_ctx)

    (item,) = (await superuser.get(PATH))["items"]
    assert (item["id"], item["state"], item["sha256"]) == (manifest.id, "unverified", manifest.sha256)

    heavy, jobs = queue_key(Queue.HEAVY), []
    queue = open_queue_client(backup_ctx.settings)
    try:
        for _ in range(2):
            status, body = await superuser.request("POST", PATH)
            assert status == 202, body
            jobs.append(body["job_id"])
        waiting = [job_id.decode() for job_id in await queue.zrange(heavy, 0, -1)]
        assert waiting.count(jobs[0]) == 1
        assert jobs[0] == jobs[1], "the second one asked for the same"
    finally:
        await queue.zrem(heavy, *jobs)
        await queue.delete(*(job_key_prefix + job_id for job_id in jobs))
        await queue.aclose()
    rows = await audit_rows(backup_ctx, action="backup.request", resource_id=jobs[0])
    assert [str(row["actor_user_id"]) for row in rows] == [superuser.user_id] * 2


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_nobody_else_may_and_without_a_repository_it_is_said(
    ctx: Context, client: aiohttp.ClientSession, person: Person, method: str
) -> None:
    superuser = await make_superuser(ctx, client)

    assert (await person.request(method, PATH))[0] == 403
    status, problem = await superuser.request(method, PATH)
    assert (status, problem["code"]) == (409, "no_backup_repository")
    async with client.request(method, PATH) as anonymous:
        assert anonymous.status == 401
