"""What is told by mail: each event once, in the transaction of what happened, and to nobody without a mail server."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from tests.access.tokens import issue_token
from tests.mail.mail_server import MailServer, Received
from tests.mail.outbox import rows
from tests.wallet.ledger import credit, insert_user
from tests.wallet.payments import begin, report_of
from zenzefi.access import endings, expiry_notices, service
from zenzefi.access.models import AccessToken
from zenzefi.accounts import logins
from zenzefi.accounts import service as accounts
from zenzefi.accounts.models import UserChanges
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.mail import sending
from zenzefi.mail.models import MailKind
from zenzefi.mail.rendering import format_instant, render
from zenzefi.settings import PaymentProviderName
from zenzefi.wallet import adjustments, settlement
from zenzefi.wallet import service as wallet
from zenzefi.web.identity import Identity

NOBODY = Actor.system()


async def _deliver(ctx: Context, server: MailServer, subject: str) -> Received:
    """The only mail with such a subject."""
    await sending.send_due(ctx)
    (mail,) = (mail for mail in server.received if subject in mail.message["Subject"])
    return mail


async def _adjust(ctx: Context, user_id: UUID, amount: str) -> None:
    async with ctx.transaction() as conn:
        await adjustments.adjust(
            conn, ctx=ctx, user_id=user_id, amount=Decimal(amount), reason="A test", actor=Actor.operator()
        )


async def _balances_told(ctx: Context) -> list[str]:
    return [row["details"]["balance"] for row in await rows(ctx) if row["kind"] == MailKind.LOW_BALANCE]


async def test_a_payment_is_confirmed_once_however_often_it_is_reported(
    mail_ctx: Context, mail_server: MailServer
) -> None:
    user_id = await insert_user(mail_ctx)
    payment = await begin(mail_ctx, user_id)
    report, date = report_of(payment.id), format_instant(mail_ctx.now())[:10]
    await asyncio.gather(
        *(settlement.settle(mail_ctx, provider=PaymentProviderName.MOCK, report=report, actor=NOBODY) for _ in range(5))
    )
    mail = await _deliver(mail_ctx, mail_server, "payment")
    assert mail.recipients == (f"{user_id}@example.com",)
    assert mail.message["Subject"] == "Your payment was received: 10.00 ZNC"
    for part in (mail.text, mail.page):
        for told in (user_id.hex, "10.00 ZNC", str(payment.id)):
            assert told in part
        assert date in part or format_instant(mail_ctx.now())[:10] in part  # midnight may have passed


async def test_a_mock_payment_is_confirmed(mail_ctx: Context, mail_server: MailServer) -> None:
    user_id = await insert_user(mail_ctx)
    await credit(mail_ctx, user_id, Decimal("1.50"))
    async with mail_ctx.transaction() as conn:
        await wallet.deposit_mock_payment(conn, ctx=mail_ctx, user_id=user_id, amount=Decimal("20.00"), actor=NOBODY)
    mail = await _deliver(mail_ctx, mail_server, "payment")
    assert "20.00 ZNC were added to your balance, which is 21.50 ZNC now." in mail.text


async def test_a_low_balance_is_told_once_until_it_has_been_higher(mail_ctx: Context, mail_server: MailServer) -> None:
    user_id = await insert_user(mail_ctx)
    for amount in ("12.00", "-2.00", "-1.00", "-1.00", "1.00", "-5.00", "10.00", "-6.00", "-0.50"):
        await _adjust(mail_ctx, user_id, amount)
    # 12, 10 (not below), 9 (told), 8, 9 (not above), 4, 14, 8 (told again), 7.50
    assert await _balances_told(mail_ctx) == ["9.00", "8.00"]
    await sending.send_due(mail_ctx)
    assert [mail.message["Subject"] for mail in mail_server.received] == [
        "Your balance is low: 9.00 ZNC",
        "Your balance is low: 8.00 ZNC",
    ]
    assert "your balance is 9.00 ZNC now." in mail_server.received[0].text


async def test_of_purchases_at_the_same_moment_one_tells_of_the_low_balance(mail_ctx: Context) -> None:
    user_id = await insert_user(mail_ctx)
    await credit(mail_ctx, user_id, Decimal("13.00"))

    async def buy() -> None:
        async with mail_ctx.transaction() as conn:
            await service.purchase(conn, ctx=mail_ctx, actor=NOBODY, user_id=user_id, duration_hours=1, scope="full")

    await asyncio.gather(*(buy() for _ in range(8)))
    assert await _balances_told(mail_ctx) == ["9.00"]


async def test_a_new_password_is_told_without_any_secret(mail_ctx: Context, mail_server: MailServer) -> None:
    old, new = "correct horse battery staple", "another battery staple"
    user = await accounts.register(
        mail_ctx, email="ada@example.com", username="ada", password=old, full_name="Ada <b>", actor=NOBODY
    )
    await logins.log_in(mail_ctx, email="ada@example.com", password=old, actor=NOBODY)
    identity = Identity(user_id=user.id, login_id=mail_ctx.new_id(), is_superuser=False)
    changes = UserChanges(password=new, current_password=old)
    await accounts.update_user(mail_ctx, identity=identity, changes=changes, actor=NOBODY)
    await accounts.update_user(mail_ctx, identity=identity, changes=UserChanges(full_name="Ada"), actor=NOBODY)
    mail = await _deliver(mail_ctx, mail_server, "password")
    assert mail.recipients == ("ada@example.com",)
    assert mail.message["Subject"] == "Your password was changed"
    assert "Hello ada," in mail.text
    assert "gateway.example sends this mail by itself" in mail.text
    assert old not in mail.text
    assert new not in mail.text


async def _activate(ctx: Context, *, hours: int, left: timedelta) -> tuple[AccessToken, datetime]:
    """A running token with so much of its time left, and when it ends."""
    token = (await issue_token(ctx, duration_hours=hours)).token
    expires_at = ctx.now() + left
    async with ctx.transaction() as conn:
        await conn.execute(
            """
            UPDATE access_tokens
            SET expires_at = $2, activated_at = $2::timestamptz - duration_hours * interval '1 hour'
            WHERE id = $1
            """,
            token.token_id,
            expires_at,
        )
    return token, expires_at


async def test_the_end_of_a_token_is_told_once_and_neither_early_nor_late(
    mail_ctx: Context, mail_server: MailServer
) -> None:
    minute = timedelta(minutes=1)
    token, expires_at = await _activate(mail_ctx, hours=720, left=timedelta(hours=24) - minute)
    await _activate(mail_ctx, hours=720, left=timedelta(hours=24) + minute)
    await _activate(mail_ctx, hours=12, left=timedelta(hours=6) + minute)
    await _activate(mail_ctx, hours=1, left=-minute)
    ended, _ = await _activate(mail_ctx, hours=1, left=minute)
    await endings.revoke(mail_ctx, actor=NOBODY, token_id=ended.token_id, with_refund=False)
    await issue_token(mail_ctx)
    counts = await asyncio.gather(*(expiry_notices.announce_expiring_tokens(mail_ctx) for _ in range(3)))
    assert sorted(counts) == [0, 0, 1]
    mail = await _deliver(mail_ctx, mail_server, "ends soon")
    assert mail.message["Subject"] == f"Your access token {token.token_hint}… ends soon"
    for part in (mail.text, mail.page):
        for told in (token.token_hint, "720 h", "scope full", format_instant(expires_at)):
            assert told in part
    assert len(token.token_hint) == len("znz_") + 4
    short, _ = await _activate(mail_ctx, hours=1, left=timedelta(minutes=29))
    assert await expiry_notices.announce_expiring_tokens(mail_ctx) == 1
    (row,) = [row for row in await rows(mail_ctx) if row["event_id"] == short.token_id]
    assert row["give_up_at"] < mail_ctx.now() + timedelta(minutes=30), "of no use once the token has ended"


async def test_many_tokens_that_end_together_are_told_of_in_batches(
    mail_ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry_notices, "BATCH", 2)
    for _ in range(5):
        await _activate(mail_ctx, hours=1, left=timedelta(minutes=5))
    assert await expiry_notices.announce_expiring_tokens(mail_ctx) == 5
    assert await expiry_notices.announce_expiring_tokens(mail_ctx) == 0
    assert len(await rows(mail_ctx)) == 5


async def test_nothing_is_written_without_a_mail_server(mail_ctx: Context, mail_server: MailServer) -> None:
    settings = mail_ctx.settings
    off = replace(mail_ctx, settings=replace(settings, mail=replace(settings.mail, host="")))
    user_id = await insert_user(off)
    await _adjust(off, user_id, "12.00")
    await _adjust(off, user_id, "-12.00")
    await _activate(off, hours=1, left=timedelta(minutes=5))
    assert await expiry_notices.announce_expiring_tokens(off) == 0
    assert await rows(off) == []
    assert await sending.send_due(off) == 0
    assert mail_server.connections == 0
    assert await expiry_notices.announce_expiring_tokens(mail_ctx) == 1, "told as soon as there is a server"


def test_what_is_filled_in_makes_neither_markup_nor_headers(mail_ctx: Context) -> None:
    def message(**details: str) -> bytes:
        hostile = {"username": "<script>alert(1)</script>", "balance": "1.00", **details}
        return render(
            "low_balance",
            settings=mail_ctx.settings,
            mail_id=UUID(int=1),
            recipient="ada@example.com",
            details=hostile,
            at=mail_ctx.now(),
        )

    page = message().partition(b"text/html")[2]
    assert b"&lt;script&gt;" in page
    assert b"<script>" not in page
    headers = message(balance="1\nBcc: eve@example.com").partition(b"\r\n\r\n")[0]
    assert b"Bcc" not in headers
    with pytest.raises(ValueError, match="linefeed or carriage return"):
        message(balance="1\rBcc: eve@example.com")
