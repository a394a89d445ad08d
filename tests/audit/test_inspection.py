"""The nightly verification of the audit log."""

from dataclasses import replace

from structlog.testing import capture_logs

from tests.support.servers import Cluster
from workers.jobs import audit as jobs
from zenzefi.audit.models import Actor
from zenzefi.audit.service import record
from zenzefi.context import open_context
from zenzefi.infra import facts
from zenzefi.settings import Settings


async def test_what_the_nightly_verification_finds_is_kept_and_each_fault_is_logged(
    settings: Settings, cluster: Cluster, fresh_database: str
) -> None:
    owner = await cluster.connect(fresh_database)
    async with open_context(replace(settings, postgres_db=fresh_database)) as ctx:
        async with ctx.transaction() as conn:
            entry_ids = [
                await record(
                    conn,
                    ctx=ctx,
                    actor=Actor.system(),
                    action="thing.change",
                    resource_type="thing",
                    resource_id="1",
                )
                for _ in range(3)
            ]
        await jobs.seal_audit_log(ctx)
        with capture_logs() as quiet:
            assert (await jobs.verify_audit_log(ctx)).startswith("sound: 3 rows sealed, 0 wait for a seal, head 1:")
        async with ctx.connection() as conn:
            assert (await facts.read_all(conn))["audit"][1] == {"faults": 0, "rows": 3}
        await owner.execute("UPDATE audit_log SET action = 'thing.keep' WHERE id = $1", entry_ids[1])
        with capture_logs() as logs:
            assert (await jobs.verify_audit_log(ctx)).startswith("NOT SOUND, 1 faults: ")
        async with ctx.connection() as conn:
            assert (await facts.read_all(conn))["audit"][1] == {"faults": 1, "rows": 3}
    await owner.close()
    assert [line["event"] for line in quiet if line["log_level"] == "error"] == []
    (fault,) = (line for line in logs if line["log_level"] == "error")
    assert (fault["event"], fault["kind"], fault["subject"]) == ("audit_fault", "altered", str(entry_ids[1]))
