"""Handing mails in: each at most once, whatever the server does."""

import asyncio
import socket
from datetime import timedelta
from email.utils import parsedate_to_datetime

import pytest
from aiosmtpd.smtp import SMTP, Envelope

from tests.mail.conftest import Superuser
from tests.mail.mail_server import MailServer, hang_up, say
from tests.mail.outbox import on_port, pass_time, rows, states, write, write_step
from tests.support.accounts import ban
from tests.wallet.ledger import insert_user
from zenzefi.context import Context
from zenzefi.devstack.ports import find_free_port
from zenzefi.infra.business_instruments import MAILS
from zenzefi.mail import delivery, sending, service
from zenzefi.mail.models import MailKind


def _counted(outcome: str) -> float:
    child = MAILS.labels(MailKind.PASSWORD_CHANGED.value, outcome)
    return child.cells[child.at]


async def test_mails_go_out_once_and_over_one_connection(mail_ctx: Context, mail_server: MailServer) -> None:
    for _ in range(5):
        await write(mail_ctx)
    sent = _counted("sent")
    assert await sending.send_due(mail_ctx) == 5
    assert await sending.send_due(mail_ctx) == 0
    assert await states(mail_ctx) == ["sent"] * 5
    assert (len(mail_server.received), mail_server.connections) == (5, 1)
    assert len({mail.recipients for mail in mail_server.received}) == 5
    assert _counted("sent") == sent + 5


async def test_what_a_mail_says_of_itself(mail_ctx: Context, mail_server: MailServer) -> None:
    await write(mail_ctx)
    await sending.send_due(mail_ctx)
    (row,), (mail,) = await rows(mail_ctx), mail_server.received
    message = mail.message
    assert mail.sender == "gateway@mail.example"
    assert message["From"] == "Gatekeeper <gateway@mail.example>"
    assert (str(message["To"]),) == mail.recipients
    assert message["Message-ID"] == f"<{row['id']}@mail.example>"
    assert abs(parsedate_to_datetime(message["Date"]) - mail_ctx.now()) < timedelta(minutes=1)
    assert message["Auto-Submitted"] == "auto-generated"
    assert mail.raw.isascii()
    assert max(map(len, mail.raw.splitlines())) <= 78


async def test_a_mail_that_is_refused_for_now_is_tried_again_later_and_later(
    mail_ctx: Context, mail_server: MailServer
) -> None:
    mail_server.on_recipient = say("450 4.2.0 greylisted", "451 4.3.0 later")
    await write(mail_ctx)
    for attempts, wait in ((1, timedelta(minutes=1)), (2, timedelta(minutes=2))):
        assert await sending.send_due(mail_ctx) == 0
        (row,) = await rows(mail_ctx)
        assert (row["state"], row["attempts"]) == ("waiting", attempts)
        assert abs(row["due_at"] - mail_ctx.now() - wait) < timedelta(seconds=20)
        assert await sending.send_due(mail_ctx) == 0, "not before its time"
        await pass_time(mail_ctx, wait)
    assert await sending.send_due(mail_ctx) == 1
    assert len(mail_server.received) == 1
    assert [sending.retry_after(attempts) for attempts in (7, 8, 1000)] == [timedelta(hours=1)] * 3


@pytest.mark.parametrize("step", ["on_recipient", "on_data"])
async def test_a_mail_that_is_refused_for_good_has_failed_and_holds_up_no_other(
    mail_ctx: Context, mail_server: MailServer, step: str
) -> None:
    setattr(mail_server, step, say("550 5.1.1 <somebody@example.com>: no such user"))
    await write(mail_ctx)
    await write(mail_ctx)
    assert await sending.send_due(mail_ctx) == 1
    await pass_time(mail_ctx, timedelta(days=1))
    assert await sending.send_due(mail_ctx) == 0
    failed, sent = await rows(mail_ctx)
    assert (failed["state"], sent["state"]) == ("failed", "sent")
    assert failed["outcome"] == "550 5.1.1 <…@example.com>: no such user"
    assert mail_server.connections == 1


async def test_the_content_may_be_refused_for_now(mail_ctx: Context, mail_server: MailServer) -> None:
    mail_server.on_data = say("452 4.3.1 disk full")
    await write(mail_ctx)
    assert await sending.send_due(mail_ctx) == 0
    assert await states(mail_ctx) == ["waiting"]
    await pass_time(mail_ctx, timedelta(minutes=1))
    assert await sending.send_due(mail_ctx) == 1
    assert len(mail_server.received) == 1


async def test_a_sender_that_is_refused_costs_no_mail(mail_ctx: Context, mail_server: MailServer) -> None:
    mail_server.on_mail = say("550 5.7.1 not your domain")
    await write(mail_ctx)
    assert await sending.send_due(mail_ctx) == 0
    assert await states(mail_ctx) == ["waiting"]


async def test_a_server_that_dies_with_the_mail_gets_it_no_second_time(
    mail_ctx: Context, mail_server: MailServer
) -> None:
    mail_server.on_data = hang_up
    await write(mail_ctx)
    assert await sending.send_due(mail_ctx) == 0
    mail_server.on_data = say()
    await pass_time(mail_ctx, timedelta(days=1))
    assert await sending.send_due(mail_ctx) == 0
    assert await states(mail_ctx) == ["unknown"]
    assert len(mail_server.received) == 1


@pytest.mark.parametrize(("step", "state"), [("on_recipient", "waiting"), ("on_data", "unknown")])
async def test_a_server_that_hangs_is_not_waited_for_long(
    mail_ctx: Context, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch, step: str, state: str
) -> None:
    # Not the other one: a machine that is busy may take longer for a step at which nobody hangs.
    monkeypatch.setattr(delivery, "ENVELOPE_TIMEOUT_S" if step == "on_recipient" else "DATA_TIMEOUT_S", 0.3)

    async def hang(_server: SMTP, _envelope: Envelope) -> str | None:
        await asyncio.Event().wait()
        return None

    setattr(mail_server, step, hang)
    await write(mail_ctx)
    async with asyncio.timeout(30):
        assert await sending.send_due(mail_ctx) == 0
    assert await states(mail_ctx) == [state]


async def test_a_server_that_does_not_greet_is_not_waited_for_long(
    mail_ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "OPEN_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        here = on_port(mail_ctx, silent.getsockname()[1])
        with pytest.raises(delivery.MailServerUnusable, match="did not answer in time"):
            await delivery.check(here.settings)


async def test_an_outage_costs_one_attempt_and_the_next_run_finds_the_server_back(
    mail_ctx: Context, mail_server: MailServer
) -> None:
    for _ in range(3):
        await write(mail_ctx)
    assert await sending.send_due(on_port(mail_ctx, find_free_port())) == 0
    assert [row["attempts"] for row in await rows(mail_ctx)] == [1, 0, 0]
    assert await sending.send_due(mail_ctx) == 2
    await pass_time(mail_ctx, timedelta(minutes=1))
    assert await sending.send_due(mail_ctx) == 1
    assert set(mail_server.message_ids.values()) == {1}


async def test_a_connection_that_the_server_ended_between_two_mails_is_opened_again(
    mail_ctx: Context, mail_server: MailServer
) -> None:
    async with delivery.open_session(mail_ctx.settings) as session:
        for _ in range(2):
            await session.begin("somebody@example.com")
            await session.hand_in(b"Subject: test\r\n\r\nhello\r\n")
            mail_server.end_connections()
            await asyncio.sleep(0)  # the news may or may not be here when the next mail begins
    assert (len(mail_server.received), mail_server.connections) == (2, 2)


async def test_what_could_not_be_sent_is_given_up(
    mail_ctx: Context, mail_server: MailServer, superuser: Superuser
) -> None:
    await write(mail_ctx)
    await superuser.execute("UPDATE mails SET attempts = 60, give_up_at = now() + interval '30 min'")
    assert await sending.send_due(on_port(mail_ctx, find_free_port())) == 0
    assert await states(mail_ctx) == ["failed"]
    await write(mail_ctx)
    await superuser.execute("UPDATE mails SET give_up_at = now() - interval '1 s'")
    assert await sending.send_due(mail_ctx) == 0
    assert await states(mail_ctx) == ["failed", "skipped"]
    assert mail_server.received == []


async def test_nobody_who_is_banned_gets_mail(mail_ctx: Context, mail_server: MailServer) -> None:
    user_id = await insert_user(mail_ctx)
    await write(mail_ctx, user_id=user_id)
    await ban(mail_ctx, str(user_id))
    await write(mail_ctx)
    assert await sending.send_due(mail_ctx) == 1
    assert await states(mail_ctx) == ["skipped", "sent"]


async def test_a_mail_of_another_version_does_not_stop_the_others(mail_ctx: Context, superuser: Superuser) -> None:
    await write(mail_ctx)
    await superuser.execute("UPDATE mails SET details = '{}'")
    await write(mail_ctx)
    assert await sending.send_due(mail_ctx) == 1
    assert await states(mail_ctx) == ["failed", "sent"]


async def test_one_event_has_one_mail_and_a_day_has_a_bound(mail_ctx: Context) -> None:
    user_id = await insert_user(mail_ctx)
    event_id = await write(mail_ctx, user_id=user_id)
    await write(mail_ctx, user_id=user_id, event_id=event_id)
    assert len(await rows(mail_ctx)) == 1
    for _ in range(service.MAX_PER_DAY + 3):
        await write(mail_ctx, user_id=user_id)
    assert len(await rows(mail_ctx)) == service.MAX_PER_DAY
    await write(mail_ctx)
    assert len(await rows(mail_ctx)) == service.MAX_PER_DAY + 1


async def test_a_mail_is_not_written_without_its_event(mail_ctx: Context) -> None:
    queued = _counted("queued")
    user_id = await insert_user(mail_ctx)

    async def fail_after_writing() -> None:
        async with mail_ctx.transaction() as conn:
            await write_step(mail_ctx, conn, user_id, mail_ctx.new_id())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_after_writing()
    assert await rows(mail_ctx) == []
    assert _counted("queued") == queued


async def test_the_outbox_is_counted_and_purged(mail_ctx: Context, superuser: Superuser) -> None:
    await write(mail_ctx)
    await sending.send_due(mail_ctx)
    await write(mail_ctx)
    async with mail_ctx.connection() as conn:
        count, oldest = await service.outbox_state(conn, now=mail_ctx.now())
    assert count == 1
    assert oldest is not None
    assert mail_ctx.now() - oldest < timedelta(minutes=1)
    assert await service.purge(mail_ctx) == 0
    await superuser.execute("UPDATE mails SET created_at = created_at - interval '30 days' WHERE state = 'sent'")
    assert await service.purge(mail_ctx) == 1
    assert await states(mail_ctx) == ["waiting"]
