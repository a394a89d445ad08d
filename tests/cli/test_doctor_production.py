"""`zenzefi doctor --production`: what it must not let pass."""

import asyncio
import json
import ssl
import subprocess
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis as redis_py
from aiohttp import web

from tests.support.certificates import make_certificate, serving_context
from tests.support.servers import Cluster
from tests.support.serving import ROOT
from zenzefi.backups import findings as backup_findings
from zenzefi.backups.encryption import make_identity
from zenzefi.context import open_context
from zenzefi.devstack.seaweedfs import EmbeddedSeaweedFS
from zenzefi.devstack.valkey import EmbeddedValkey
from zenzefi.doctor.machine import judge_disk
from zenzefi.doctor.secrets import is_weak
from zenzefi.infra import facts
from zenzefi.settings import Settings

GIB = 2**30
# Connects to this machine, and is no loopback address by its looks.
ELSEWHERE = "0.0.0.0"
HSTS = "max-age=63072000; includeSubDomains"


@pytest.fixture
def production_env(env: dict[str, str], fresh_database: str) -> dict[str, str]:
    """The servers of the tests as somebody would use them in production."""
    kept = {name: value for name, value in env.items() if not name.startswith("RATE_LIMIT_")}
    return {
        **kept,
        "ENVIRONMENT": "production",
        "POSTGRES_DB": fresh_database,
        "TRUSTED_PROXIES": "10.0.0.7",
        "PAYMENT_PROVIDER": "stripe",
        "STRIPE_SECRET_KEY": "sk_live_0123456789abcdef",
        "PAYMENT_WEBHOOK_SECRET": "whsec_0123456789abcdef",
        "BACKUP_RECIPIENTS": make_identity()[1],
    }


async def _examine(env: dict[str, str], *options: str, open_files: int | None = None) -> tuple[int, dict[str, Any]]:
    """The exit code, and each check by its name."""
    # By a shell, not between fork and exec: other threads of the tests may hold a lock at that moment, for ever.
    limit = "" if open_files is None else f"ulimit -n {open_files} && "
    command = [sys.executable, "-m", "zenzefi", "doctor", "--production", "--json", *options]
    finished = await asyncio.to_thread(
        subprocess.run,
        ["/bin/sh", "-c", f'{limit}exec "$@"', "sh", *command],
        env={"PATH": "/usr/bin:/bin", **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.stderr == ""
    document = json.loads(finished.stdout)
    checks = {check["name"]: check for check in document["checks"]}
    worst = max((check["verdict"] for check in checks.values()), key=["ok", "warn", "fail"].index)
    assert document["worst"] == worst
    assert document["passed"] is (worst != "fail")
    assert finished.returncode == {"ok": 0, "warn": 3, "fail": 1}[worst]
    assert all(check["fix"] for check in checks.values() if check["verdict"] != "ok")
    return finished.returncode, checks


def _verdicts(checks: dict[str, Any], *names: str) -> dict[str, str]:
    return {name: checks[name]["verdict"] for name in names}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of this machine may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def test_settings_that_are_for_a_developer_fail(production_env: dict[str, str], open_folder: Path) -> None:
    readable = open_folder / "postgres_password"
    readable.write_text(production_env["POSTGRES_PASSWORD"])
    readable.chmod(0o644)
    wrong = {
        "ENVIRONMENT": "development",
        "TRUSTED_PROXIES": "0.0.0.0/0",
        "RATE_LIMIT_API": "off",
        "PAYMENT_PROVIDER": "mock",
        "LOG_LEVEL": "debug",
        "POSTGRES_PASSWORD": "",
        "POSTGRES_PASSWORD_FILE": str(readable),
        "SMTP_PASSWORD": production_env["SECRET_KEY"],
        "BACKUP_IDENTITY": make_identity()[0],
    }
    code, checks = await _examine(production_env | wrong, "--before-start", open_files=1024)
    assert code == 1
    failing = (
        "environment",
        "trusted proxies",
        "rate limits",
        "payments",
        "passwords",  # zenzefi-test-password
        "secrets' use",
        "secret files",
        "s3",
        "open files",
    )
    assert _verdicts(checks, *failing) == dict.fromkeys(failing, "fail")
    assert _verdicts(checks, "log level", "backup key") == {"log level": "warn", "backup key": "warn"}
    assert str(readable) in checks["secret files"]["detail"]
    # What only a running service can show was not asked for.
    assert not {"workers", "scheduler", "last backup", "public address", "certificate"} & set(checks)


@pytest.mark.parametrize(
    ("variables", "check", "verdict"),
    [
        ({"TRUSTED_PROXIES": ""}, "trusted proxies", "fail"),
        ({"TRUSTED_PROXIES": "8.8.8.0/24"}, "trusted proxies", "warn"),
        ({"PAYMENT_PROVIDER": "none"}, "payments", "warn"),
        ({"STRIPE_SECRET_KEY": "sk_test_0123456789"}, "payments", "fail"),
        ({"STRIPE_API_URL": "http://stripe.example"}, "payments", "fail"),
        ({"ZENZEFI_TARGET_URL": "http://service.example"}, "upstream encryption", "fail"),
        ({"S3_ENDPOINT_URL": "http://s3.example"}, "s3 encryption", "fail"),
        ({"RATE_LIMIT_SUPERUSER_BYPASS": "true"}, "rate limits", "warn"),
    ],
)
def test_a_setting_that_undoes_a_protection_is_found(
    production_env: dict[str, str], variables: dict[str, str], check: str, verdict: str
) -> None:
    from zenzefi.doctor.configuration import check_configuration

    findings = {each.name: each for each in check_configuration(Settings.from_env(production_env | variables))}
    assert (findings[check].verdict, bool(findings[check].fix)) == (verdict, True)


async def test_servers_that_forget_and_let_anybody_in_fail(
    production_env: dict[str, str], cluster: Cluster, tmp_path: Path
) -> None:
    server = EmbeddedValkey(tmp_path, settings={"maxmemory": "1gb"})
    server.start()
    try:
        env = production_env | {
            # The cluster of the tests forgets what it acknowledged, and its superuser may do everything.
            "POSTGRES_USER": cluster.user,
            "POSTGRES_PASSWORD": cluster.password,
            "POSTGRES_SERVER": ELSEWHERE if cluster.host == "127.0.0.1" else cluster.host,
            "RATE_LIMIT_PROCESSES": "10000",
            "REDIS_HOST": server.host,
            "REDIS_PORT": str(server.port),
            "REDIS_PASSWORD": server.password,
            "REDIS_DB": "0",
        }
        _, sound = await _examine(env)
        with redis_py.Redis(host=server.host, port=server.port, password=server.password) as client:
            for name, value in (("maxmemory-policy", "allkeys-lru"), ("appendonly", "no"), ("maxmemory", "1")):
                client.config_set(name, value)
            client.config_set("requirepass", "")
        code, checks = await _examine(env | {"REDIS_PASSWORD": ""})
    finally:
        server.stop()
    redis = ("redis eviction", "redis persistence", "redis login", "redis memory")
    assert _verdicts(sound, *redis) == dict.fromkeys(redis, "ok")
    assert _verdicts(checks, *redis) == dict.fromkeys(redis, "fail")
    assert code == 1
    database = ("privileges", "database role", "durability", "connections", "workers", "scheduler", "last backup")
    assert _verdicts(checks, *database) == dict.fromkeys(database, "fail")
    assert "is a superuser" in checks["database role"]["detail"]
    assert "fsync=off" in checks["durability"]["detail"]
    assert _verdicts(checks, "database encryption", "superusers") == {
        "database encryption": "warn",
        "superusers": "warn",
    }


async def test_upkeep_that_stopped_is_found(
    production_env: dict[str, str], seaweedfs: EmbeddedSeaweedFS, redis_env: dict[str, str]
) -> None:
    env = production_env | {
        "S3_ENDPOINT_URL": seaweedfs.endpoint_url,
        "S3_BUCKET": seaweedfs.bucket,
        "S3_ACCESS_KEY": seaweedfs.access_key,
        "S3_SECRET_KEY": seaweedfs.secret_key,
        "BACKUP_OBJECT_LOCK_DAYS": "30",
    }
    async with open_context(Settings.from_env(env)) as ctx, ctx.transaction() as conn:
        now = ctx.now()
        fresh, old = now.timestamp() - 3600, now.timestamp() - 27 * 3600
        await facts.put(conn, name=backup_findings.FACT, document={"last_success": fresh, "last_verified": old}, at=now)
        await facts.put(conn, name="ledger", document={"faults": 2}, at=now)
        await facts.put(conn, name="audit", document={"faults": 0}, at=now)
    with redis_py.Redis(
        host=redis_env["REDIS_HOST"],
        port=int(redis_env["REDIS_PORT"]),
        password=redis_env["REDIS_PASSWORD"],
        db=int(redis_env.get("REDIS_DB", "0")),
    ) as client:
        job = f"test:{uuid4().hex}"
        client.zadd("znz:queue:default", {job: (fresh - 600) * 1000})
        try:
            _, checks = await _examine(env)
        finally:
            client.zrem("znz:queue:default", job)
    assert _verdicts(checks, "s3", "last backup", "audit log") == {"s3": "ok", "last backup": "ok", "audit log": "ok"}
    failing = ("s3 safety", "last verification", "ledger", "queue lag", "scheduler")
    assert _verdicts(checks, *failing) == dict.fromkeys(failing, "fail")
    assert checks["queue lag"]["detail"].startswith("jobs wait: default for 1.")


@pytest.mark.parametrize(
    ("role", "others"),
    [("web", {"s3", "backup key", "mail"}), ("worker-heavy", {"trusted proxies", "payments", "public address"})],
)
async def test_a_role_is_not_asked_for_what_only_others_have(
    production_env: dict[str, str], role: str, others: set[str]
) -> None:
    env = {name: value for name, value in production_env.items() if not name.startswith(("STRIPE", "TRUSTED"))}
    if role == "web":
        del env["POSTGRES_OWNER_PASSWORD"]
    _, checks = await _examine(env | {"PAYMENT_PROVIDER": "none"}, "--role", role)
    assert checks["schema"]["verdict"] == "ok"
    assert not others & set(checks)
    kept = {"s3", "backup key", "mail", "trusted proxies", "payments", "public address"} - others
    assert kept | {"postgresql", "passwords", "workers", "last backup"} <= set(checks)


@asynccontextmanager
async def _public(context: ssl.SSLContext, *, status: int = 200, hsts: str = HSTS) -> AsyncIterator[int]:
    """A TLS server as the public sees it; its port."""

    async def health(_request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Strict-Transport-Security": hsts} if hsts else None)

    app = web.Application()
    app.add_routes([web.get("/health", health)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_the_public_address_is_seen_as_strangers_see_it(production_env: dict[str, str], tmp_path: Path) -> None:
    good = make_certificate(tmp_path / "good.pem", host=ELSEWHERE)
    context = serving_context(good)
    async with _public(context) as port:
        trusting = production_env | {"BACKEND_URL": f"https://{ELSEWHERE}:{port}", "SSL_CERT_FILE": str(good)}
        _, checks = await _examine(trusting | {"PORT": str(port), "INTERNAL_PORT": "0"})
    names = ("certificate", "old tls", "public health", "hsts", "closed ports")
    assert _verdicts(checks, *names) == dict.fromkeys(names, "ok")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with _public(context, status=503, hsts="") as port, _public(serving_context(good)) as internal_port:
        strange = {"BACKEND_URL": f"https://{ELSEWHERE}:{port}", "INTERNAL_PORT": str(internal_port)}
        code, checks = await _examine(production_env | strange)
    assert code == 1
    assert _verdicts(checks, *names) == dict.fromkeys(names, "fail")
    assert "self-signed" in checks["certificate"]["detail"]
    assert f"INTERNAL_PORT {internal_port}" in checks["closed ports"]["detail"]


@pytest.mark.parametrize(("days_left", "verdict"), [(10, "warn"), (2, "fail")])
async def test_a_certificate_that_was_not_renewed_is_found_in_time(
    production_env: dict[str, str], tmp_path: Path, days_left: int, verdict: str
) -> None:
    certificate = make_certificate(tmp_path / "old.pem", host="127.0.0.1", days_old=90 - days_left, days_left=days_left)
    async with _public(serving_context(certificate)) as port:
        url = f"https://127.0.0.1:{port}"
        _, checks = await _examine(production_env | {"BACKEND_URL": url, "SSL_CERT_FILE": str(certificate)})
    assert checks["certificate"]["verdict"] == verdict
    assert "of 90 days left" in checks["certificate"]["detail"]


@pytest.mark.parametrize(
    ("password", "weak"),
    [
        ("", True),
        ("postgres", True),
        ("abcdefghijklmno", True),
        ("aaaaaaaaaaaaaaaaaaaaaaaa", True),
        ("zenzefi-password-2", True),
        ("a4f1c0be97d2536e", False),
        ("zenzefi:a4f1c0be97d2536e81", False),
    ],
)
def test_what_everybody_tries_first_is_weak(password: str, weak: bool) -> None:
    assert is_weak(password) is weak


@pytest.mark.parametrize(
    ("total", "free", "verdict"),
    [(100 * GIB, 50 * GIB, "ok"), (100 * GIB, 9 * GIB, "warn"), (100 * GIB, GIB // 8, "fail"), (2**26, 2**25, "ok")],
)
def test_a_disk_that_fills_up_is_warned_of(total: int, free: int, verdict: str) -> None:
    assert judge_disk("/", (total, total - free, free)).verdict == verdict
