"""The people of load tests: made in development only, and good for all that a customer does."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from click.testing import CliRunner

from loadtest import probes, run, seed
from loadtest.people import load_people
from loadtest.population import Population, populate, sizes
from loadtest.seed import ProductionRefused
from loadtest.stack import NothingToLoad, installation
from tests.support.servers import Cluster
from tests.support.serving import ROOT
from zenzefi.app import ROUTES
from zenzefi.context import Context, open_context
from zenzefi.settings import Environment, Settings
from zenzefi.wallet import service as wallet
from zenzefi.wallet.routes import MOCK_PAYMENT_ROUTES


async def test_people_are_funded_signed_in_and_may_use_the_gateway(
    settings: Settings, client: aiohttp.ClientSession
) -> None:
    people = await seed.seed(settings, count=3, funds=Decimal("100.00"))
    assert len({person.token for person in people}) == 3
    for person in people:
        async with client.get("/api/v1/currency/balance", headers=person.api_headers) as response:
            assert (await response.json())["balance"] == "82.00"
        async with client.get("/api/v1/proxy/certificates/filter", headers=person.gateway_headers) as response:
            assert response.status == 200
    account = {"email": people[0].email, "password": people[0].password}
    async with client.post("/api/v1/auth/login", json=account) as response:
        assert response.status == 200


async def test_production_gets_no_people(settings: Settings) -> None:
    with pytest.raises(ProductionRefused, match="production"):
        await seed.seed(replace(settings, environment=Environment.PRODUCTION), count=1, funds=Decimal("1.00"))


def test_a_file_of_people_is_its_owners_alone(env: Mapping[str, str], tmp_path: Path) -> None:
    path = tmp_path / "people.jsonl"
    made = _seed({**env}, "--output", str(path))
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (person,) = load_people(path.read_text())
    assert person.password not in repr(person)
    refused = _seed({**env, "ENVIRONMENT": "production"})
    assert refused.returncode == 1
    assert "Error: " in refused.stderr


def _seed(env: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, for it sets up the logging of its process."""
    command = [sys.executable, "-m", "loadtest.seed", "--count", "1", *options]
    return subprocess.run(command, env={**os.environ, **env}, cwd=ROOT, capture_output=True, text=True, timeout=60)


async def test_a_large_population_has_a_sound_ledger(
    cluster: Cluster, env: Mapping[str, str], fresh_database: str
) -> None:
    dsn = f"postgresql://{cluster.user}:{quote(cluster.password)}@{cluster.host}:{cluster.port}/{fresh_database}"
    populate(dsn, Population.until(datetime.now(UTC), users=40), tell=lambda _: None)
    held = sizes(dsn)
    assert (held["users"], held["ledger_transactions"], held["access_tokens"]) == (40, 200, 40)
    assert held["usage_hourly"] + held["usage_daily"] == 400
    async with open_context(Settings.from_env({**env, "POSTGRES_DB": fresh_database})) as ctx:
        report = await wallet.verify(ctx)
        assert report.is_sound
        assert report.totals.transactions == 200
        await _require_references(ctx)


async def _require_references(ctx: Context) -> None:
    """COPY has skipped the foreign keys; nothing may refer to what is not there."""
    async with ctx.connection() as conn:
        orphans = await conn.fetchval(
            """
            SELECT count(*) FROM access_tokens AS token
            LEFT JOIN ledger_transactions AS purchase ON purchase.id = token.purchase_transaction_id
            LEFT JOIN users ON users.id = token.user_id
            LEFT JOIN users AS referrer ON referrer.id = users.referred_by
            WHERE purchase.id IS NULL OR users.id IS NULL OR (users.referred_by IS NULL) <> (referrer.id IS NULL)
            """
        )
        sessions = await conn.fetchval(
            "SELECT count(*) FROM gateway_sessions AS s JOIN access_tokens AS t ON t.id = s.token_id"
        )
    assert (orphans, sessions) == (0, 20)


def test_every_api_route_is_asked_or_said_not_to_be() -> None:
    routes = {f"{route.method} {route.path}" for route in (*ROUTES, *MOCK_PAYMENT_ROUTES)}
    asked = {probe.route for probe in probes.PROBES}
    assert asked | probes.NOT_ASKED.keys() == routes
    assert not asked & probes.NOT_ASKED.keys()


def test_the_stack_of_make_run_is_found_by_its_folder(tmp_path: Path) -> None:
    with pytest.raises(NothingToLoad, match="POSTGRES_SERVER"):
        installation({"ZENZEFI_HOME": str(tmp_path)})
    (tmp_path / "state.json").write_text(json.dumps({"secret_key": "s" * 43, "app_password": "p"}))
    (tmp_path / "ports.json").write_text(json.dumps({"postgres": 21000}))
    found = installation({"ZENZEFI_HOME": str(tmp_path)})
    assert (found["POSTGRES_PORT"], found["POSTGRES_PASSWORD"], found["SECRET_KEY"]) == ("21000", "p", "s" * 43)
    assert installation({"POSTGRES_SERVER": "db"}) == {"POSTGRES_SERVER": "db"}


def test_a_load_test_of_nothing_says_what_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_URL", "http://127.0.0.1:1")
    refused = CliRunner().invoke(run.main)
    assert refused.exit_code == 1
    assert "make run" in refused.output
