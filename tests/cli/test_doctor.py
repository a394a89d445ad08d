"""`zenzefi doctor`: each dependency, and how to mend it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.cli.conftest import Finished, RunCli
from zenzefi.devstack.ports import find_free_port
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.infra.migrations import migrate_down
from zenzefi.settings import Settings

Doctor: TypeAlias = Callable[..., Awaitable[Finished]]


@pytest.fixture
def doctor(run_cli: RunCli) -> Doctor:
    """`zenzefi doctor` in a thread: the upstream that it asks lives in this event loop."""

    async def run(*arguments: str, env: dict[str, str]) -> Finished:
        return await asyncio.to_thread(run_cli, "doctor", *arguments, env=env)

    return run


def _checks(finished: Finished) -> dict[str, dict[str, Any]]:
    assert finished.stderr == ""
    document = json.loads(finished.stdout)
    assert document["passed"] is (finished.returncode == 0)
    return {check["name"]: check for check in document["checks"]}


async def test_everything_is_looked_at(doctor: Doctor, env: dict[str, str]) -> None:
    finished = await doctor("--json", env=env)
    checks = _checks(finished)
    assert finished.returncode == 0, checks
    assert {name for name, check in checks.items() if check["verdict"] == "ok"} >= {
        "settings",
        "secret key",
        "postgresql",
        "schema",
        "privileges",
        "partitions",
        "clock",
        "redis",
        "redis eviction",
        "upstream",
        "http parser",
    }
    # The servers of the tests keep nothing, and there is neither a bucket nor a worker.
    for name in ("s3", "workers"):
        assert checks[name]["verdict"] == "warn"
    assert {"redis persistence", "open files"} <= set(checks)
    assert all(check["fix"] for check in checks.values() if check["verdict"] != "ok")


async def test_it_is_plain_in_a_pipe(doctor: Doctor, env: dict[str, str]) -> None:
    finished = await doctor(env=env)
    lines = [line.split("\t") for line in finished.stdout.splitlines()]
    assert {len(fields) for fields in lines} == {4}
    assert {fields[0] for fields in lines} == {"ok", "warn"}
    assert "\x1b" not in finished.stdout


async def test_what_cannot_be_reached_fails_and_does_not_hide_the_rest(doctor: Doctor, env: dict[str, str]) -> None:
    nobody = str(find_free_port())
    finished = await doctor(
        "--json",
        env=env
        | {"POSTGRES_PORT": nobody, "REDIS_PORT": nobody, "ZENZEFI_TARGET_URL": f"http://127.0.0.1:{nobody}"}
        | {"S3_BUCKET": "backups", "S3_ENDPOINT_URL": f"http://127.0.0.1:{nobody}"},
    )
    assert finished.returncode == 1
    checks = _checks(finished)
    verdicts = {name: checks[name]["verdict"] for name in ("postgresql", "redis", "s3", "upstream", "settings")}
    assert verdicts == {"postgresql": "fail", "redis": "fail", "s3": "fail", "upstream": "warn", "settings": "ok"}


async def test_a_bad_setting_fails(doctor: Doctor, env: dict[str, str]) -> None:
    finished = await doctor("--json", env=env | {"PROCESSES": "none"})
    assert finished.returncode == 1
    assert "PROCESSES" in _checks(finished)["settings"]["detail"]


async def test_a_schema_behind_fails(doctor: Doctor, env: dict[str, str], fresh_database: str) -> None:
    own = env | {"POSTGRES_DB": fresh_database}
    await asyncio.to_thread(migrate_down, Settings.from_env(own))
    finished = await doctor("--json", env=own)
    assert finished.returncode == 1
    schema = _checks(finished)["schema"]
    assert (schema["verdict"], schema["fix"]) == ("fail", "zenzefi migrate up")


@pytest.mark.parametrize(("environment", "verdict"), [("development", "warn"), ("production", "fail")])
async def test_an_application_that_may_alter_history_is_found(
    doctor: Doctor, env: dict[str, str], environment: str, verdict: str
) -> None:
    owner = {"POSTGRES_USER": env["POSTGRES_OWNER_USER"], "POSTGRES_PASSWORD": env["POSTGRES_OWNER_PASSWORD"]}
    checks = _checks(await doctor("--json", env=env | owner | {"ENVIRONMENT": environment}))
    assert checks["privileges"]["verdict"] == verdict
    assert "ledger_postings" in checks["privileges"]["detail"]


async def test_a_redis_that_evicts_fails(doctor: Doctor, env: dict[str, str], tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path, settings={"maxmemory-policy": "allkeys-lru"})
    server.start()
    try:
        redis = {"REDIS_HOST": server.host, "REDIS_PORT": str(server.port), "REDIS_PASSWORD": server.password}
        finished = await doctor("--json", env=env | redis | {"REDIS_DB": "0"})
    finally:
        server.stop()
    assert finished.returncode == 1
    checks = _checks(finished)
    assert checks["redis eviction"]["verdict"] == "fail"
    assert "noeviction" in checks["redis eviction"]["fix"]
    assert checks["redis persistence"]["verdict"] == "ok"


async def test_development_that_others_can_reach_is_warned_of(doctor: Doctor, env: dict[str, str]) -> None:
    checks = _checks(await doctor("--json", env=env | {"HOST": "0.0.0.0"}))
    assert checks["settings"]["verdict"] == "warn"
