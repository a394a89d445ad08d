"""The connection to the mail server: encrypted and verified as configured, or none; and what operators see of it."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import RunCli, assert_one_clear_line, run_cli
from tests.mail.mail_server import PASSWORD, USERNAME, make_certificate, run_mail_server, say
from zenzefi.devstack.ports import find_free_port
from zenzefi.mail import delivery, sending
from zenzefi.mail.rendering import sender_of
from zenzefi.settings import Settings, SettingsError

__all__ = ["run_cli"]

HOST = "localhost"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mail server's certificate, which is its own authority."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "mail.pem", HOST)


def _settings(env: dict[str, str], port: int, **variables: str) -> Settings:
    mail = {"SMTP_HOST": HOST, "SMTP_PORT": str(port), "MAIL_FROM": "gateway@mail.example", **variables}
    return Settings.from_env({**env, **mail})


@pytest.mark.parametrize("encryption", ["starttls", "tls"])
async def test_a_server_of_our_own_authority_takes_mail_after_signing_in(
    env: dict[str, str], certificate: Path, encryption: str
) -> None:
    # aiosmtpd does not know that it stands behind TLS when it has not begun it itself.
    options: dict[str, Any] = {"auth_required": True, "require_starttls": True} if encryption == "starttls" else {}
    async with run_mail_server(tls=certificate, implicit=encryption == "tls", **options) as server:
        settings = _settings(
            env,
            server.port,
            SMTP_ENCRYPTION=encryption,
            SMTP_CA_FILE=str(certificate),
            SMTP_USERNAME=USERNAME,
            SMTP_PASSWORD=PASSWORD,
        )
        assert await sending.send_test(settings, recipient="ada@example.com") == "250 2.0.0 queued"
        (mail,) = server.received
        assert mail.signed_in
        assert mail.recipients == ("ada@example.com",)
        with pytest.raises(delivery.MailServerUnusable, match=r"^535 ") as wrong:
            await delivery.check(_with_password(settings, "another"))
        assert PASSWORD not in str(wrong.value)
        assert "another" not in str(wrong.value)


async def test_a_server_without_starttls_gets_nothing(env: dict[str, str]) -> None:
    async with run_mail_server() as server:
        settings = _settings(env, server.port, SMTP_USERNAME=USERNAME, SMTP_PASSWORD=PASSWORD)
        with pytest.raises(delivery.MailServerUnusable, match="STARTTLS extension not supported"):
            await sending.send_test(settings, recipient="ada@example.com")
        assert server.received == []


@pytest.mark.parametrize("encryption", ["starttls", "tls"])
@pytest.mark.parametrize("trust", ["system's", "another host's"])
async def test_a_server_that_nobody_vouches_for_gets_nothing(
    env: dict[str, str], certificate: Path, tmp_path: Path, encryption: str, trust: str
) -> None:
    other = make_certificate(tmp_path / "other.pem", "mail.example")
    shown = certificate if trust == "system's" else other
    async with run_mail_server(tls=shown, implicit=encryption == "tls") as server:
        variables = {"SMTP_ENCRYPTION": encryption}
        if trust == "another host's":
            variables["SMTP_CA_FILE"] = str(other)
        with pytest.raises(delivery.MailServerUnusable, match=r"(?i)certificate"):
            await sending.send_test(_settings(env, server.port, **variables), recipient="ada@example.com")
        assert server.received == []


async def test_an_operator_sees_what_the_server_says(env: dict[str, str], run_cli: RunCli) -> None:
    async with run_mail_server() as server:
        mail_env = {**env, "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(server.port), "SMTP_ENCRYPTION": "none"}
        mail_env["MAIL_FROM"] = "gateway@mail.example"
        server.on_recipient = say(None, "550 5.1.1 <eve@example.com>: no such user")
        for address in ("ada@example.com", "eve@example.com", "no address"):
            finished = await asyncio.to_thread(run_cli, "mail", "test", address, env=mail_env)
            if address == "ada@example.com":
                assert finished.stdout == f"127.0.0.1:{server.port} took the mail: 250 2.0.0 queued\n", finished
            elif address == "eve@example.com":
                assert_one_clear_line(finished, "did not take the mail: 550 5.1.1 <…@example.com>: no such user")
            else:
                assert finished.returncode == 2
        assert len(server.received) == 1
        checks = await _doctor(run_cli, mail_env)
        assert (checks["mail"]["verdict"], len(server.received)) == ("ok", 1)
        nobody = str(find_free_port())
        checks = await _doctor(run_cli, {**mail_env, "SMTP_PORT": nobody})
        assert checks["mail"]["verdict"] == "fail"
        assert nobody in checks["mail"]["detail"]
        checks = await _doctor(run_cli, env)
        assert checks["mail"] == {"name": "mail", "verdict": "ok", "detail": "off: SMTP_HOST is not set", "fix": ""}
        finished = await asyncio.to_thread(run_cli, "mail", "test", "ada@example.com", env=env)
        assert_one_clear_line(finished, "SMTP_HOST")


@pytest.mark.parametrize(
    "sender", ["nobody", "a b@c.example", "@example.com", "a@", "ü@example.com", "a@b.example\r\nBcc: e"]
)
def test_a_sender_that_is_no_address_is_refused(env: dict[str, str], sender: str) -> None:
    with pytest.raises(SettingsError, match="MAIL_FROM"):
        _settings(env, 25, MAIL_FROM=sender)


def test_a_sender_may_have_any_name(env: dict[str, str]) -> None:
    sender = sender_of(_settings(env, 25, MAIL_FROM='"Ünal, Gate" <gateway@mail.example>'))
    assert (sender.display_name, sender.addr_spec) == ("Ünal, Gate", "gateway@mail.example")


def _with_password(settings: Settings, password: str) -> Settings:
    return replace(settings, mail=replace(settings.mail, password=password))


async def _doctor(run_cli: RunCli, env: dict[str, str]) -> dict[str, dict[str, str]]:
    finished = await asyncio.to_thread(run_cli, "doctor", "--json", env=env)
    return {check["name"]: check for check in json.loads(finished.stdout)["checks"]}
