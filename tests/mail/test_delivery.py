"""The connection to the mail server: encrypted and verified as configured, or none; and what operators see of it."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.cli.conftest import RunCli, assert_one_clear_line, run_cli
from tests.mail.mail_server import PASSWORD, USERNAME, run_mail_server, say
from tests.support.certificates import make_certificate
from zenzefi.cli_mail import mail_test
from zenzefi.devstack.ports import find_free_port
from zenzefi.doctor import Finding, Verdict, examine
from zenzefi.mail import delivery, sending
from zenzefi.mail.rendering import sender_of
from zenzefi.settings import Settings, SettingsError

__all__ = ["run_cli"]

HOST = "localhost"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mail server's certificate, which is its own authority."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "mail.pem", host=HOST)


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
    other = make_certificate(tmp_path / "other.pem", host="mail.example")
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
        mail_env = _plain(env, server.port)
        server.on_recipient = say(None, "550 5.1.1 <eve@example.com>: no such user")
        finished = await asyncio.to_thread(run_cli, "mail", "test", "ada@example.com", env=mail_env)
        assert finished.stdout == f"127.0.0.1:{server.port} took the mail: 250 2.0.0 queued\n", finished
        finished = await asyncio.to_thread(run_cli, "mail", "test", "eve@example.com", env=mail_env)
        assert_one_clear_line(finished, "did not take the mail: 550 5.1.1 <…@example.com>: no such user")
        assert len(server.received) == 1


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "said"),
    [
        (["no address"], {}, 2, "that is no e-mail address"),
        (["ada@example.com"], {"SMTP_HOST": ""}, 1, "SMTP_HOST is not set"),
    ],
)
def test_an_operator_is_told_what_is_missing(
    env: dict[str, str], arguments: list[str], variables: dict[str, str], code: int, said: str
) -> None:
    result = CliRunner().invoke(mail_test, arguments, env={**_plain(env, find_free_port()), **variables})
    assert result.exit_code == code
    assert said in result.output


async def test_doctor_signs_in_and_sends_nothing(env: dict[str, str]) -> None:
    async with run_mail_server() as server:
        mail_env = _plain(env, server.port)
        assert (await _finding(mail_env)).verdict is Verdict.OK
        assert (server.connections, server.received) == (1, [])
    found = await _finding(mail_env)
    assert (found.verdict, found.detail.partition(": ")[0]) == (Verdict.FAIL, f"127.0.0.1:{server.port}")
    assert "SMTP_" in found.fix
    assert (await _finding(env)).detail == "off: SMTP_HOST is not set"


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


def _plain(env: dict[str, str], port: int) -> dict[str, str]:
    mail = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(port), "SMTP_ENCRYPTION": "none"}
    return {**env, **mail, "MAIL_FROM": "gateway@mail.example"}


async def _finding(env: dict[str, str]) -> Finding:
    (found,) = (finding for finding in await examine(env) if finding.name == "mail")
    return found
