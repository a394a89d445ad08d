"""Handing in what waits in the outbox: every mail at most once, whatever dies when.

An attempt has two claims. The first only keeps other processes from trying the same mail at the same moment; if this
one dies under it, the mail is due again soon, for the server has nothing of it. The second is committed when sender and
recipient are accepted, right before SMTP's DATA: from then on nobody else sends the mail, whatever happens. If no
answer to it comes (a crash, a lost connection, a server that hangs) the mail ends as unknown. Sending it again would
deliver many of these twice; a notice that is lost once in a lifetime is the lesser harm.

What the server certainly did not take is tried again, at growing distances, until the mail's `give_up_at`; what it
refuses for good (5yz) has failed.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

import structlog

from zenzefi.context import Context
from zenzefi.infra.business_instruments import MAILS
from zenzefi.mail import queries, service
from zenzefi.mail.delivery import DeliveryUncertain, MailRefused, MailServerUnusable, MailSession, open_session
from zenzefi.mail.models import Mail, MailState
from zenzefi.mail.rendering import render
from zenzefi.settings import Settings

# A mail may take 40 s (zenzefi.mail.delivery) on top of it, and a job of the default queue has 60 s.
BUDGET_S: Final = 15.0
# Longer than anything between the claim and DATA may take, the database included.
CLAIM: Final = timedelta(minutes=2)
# As long after DATA nobody is waiting for the server's answer any more, even if the database is slow.
SENDING_CLAIM: Final = timedelta(minutes=5)
FIRST_RETRY: Final = timedelta(minutes=1)
LAST_RETRY: Final = timedelta(hours=1)
LOST_BATCH: Final = 500

log = structlog.get_logger(__name__)


async def send_due(ctx: Context) -> int:
    """Hand in the mails that are due, over one connection; how many the server took. Any number may run at once.

    Stops at the first trouble with the server itself: an outage costs one attempt of one mail per run.
    """
    if not service.is_on(ctx):
        return 0
    await _give_up_lost(ctx)
    sent, stop_at = 0, time.monotonic() + BUDGET_S
    async with open_session(ctx.settings) as session:
        while time.monotonic() < stop_at and (mail := await _claim(ctx)) is not None:
            try:
                sent += await _attempt(ctx, session, mail)
            except MailServerUnusable as error:
                log.warning("mail_server_unusable", reason=str(error))
                await _defer(ctx, mail, reason=str(error))
                break
    return sent


async def send_test(settings: Settings, *, recipient: str) -> str:
    """Send one mail at once, outside the outbox; what the server said when it took it.

    Raises:
        MailError: it did not, or said nothing.
        ValueError: that is no address.
    """
    message = render("test", settings=settings, mail_id=uuid4(), recipient=recipient, details={}, at=datetime.now(UTC))
    async with open_session(settings) as session:
        await session.begin(recipient)
        return await session.hand_in(message)


async def _claim(ctx: Context) -> Mail | None:
    async with ctx.transaction() as conn:
        now = ctx.now()
        return await queries.claim_mail(conn, now=now, until=now + CLAIM)


async def _attempt(ctx: Context, session: MailSession, mail: Mail) -> bool:
    if not mail.is_active:
        return await _end(ctx, mail, MailState.SKIPPED, outcome="user is banned")
    if mail.give_up_at <= ctx.now():
        return await _end(ctx, mail, MailState.SKIPPED, outcome="too late")
    try:
        message = render(
            mail.kind.value,
            settings=ctx.settings,
            mail_id=mail.id,
            recipient=mail.recipient,
            details={**mail.details, "username": mail.username},
            at=mail.created_at,
        )
    except (KeyError, ValueError) as error:  # written by another version, whose templates named other things
        log.exception("mail_not_rendered", mail_id=str(mail.id), kind=mail.kind.value)
        return await _end(ctx, mail, MailState.FAILED, outcome=f"not rendered: {type(error).__name__}")
    try:
        await session.begin(mail.recipient)
        if not await _begin_sending(ctx, mail):
            await session.abandon()
            return False
        reply = await session.hand_in(message)
    except MailRefused as error:
        if error.is_final:
            return await _end(ctx, mail, MailState.FAILED, outcome=str(error))
        await _defer(ctx, mail, reason=str(error))
        return False
    except DeliveryUncertain as error:
        return await _end(ctx, mail, MailState.UNKNOWN, outcome=str(error))
    return await _end(ctx, mail, MailState.SENT, outcome=reply)


async def _begin_sending(ctx: Context, mail: Mail) -> bool:
    async with ctx.transaction() as conn:
        return await queries.begin_sending(conn, mail=mail, until=ctx.now() + SENDING_CLAIM)


async def _defer(ctx: Context, mail: Mail, *, reason: str) -> None:
    now = ctx.now()
    due_at = now + retry_after(mail.attempts)
    if due_at >= mail.give_up_at:
        await _end(ctx, mail, MailState.FAILED, outcome=reason)
        return
    async with ctx.transaction() as conn:
        deferred = await queries.update_deferred(conn, mail=mail, due_at=due_at, outcome=reason)
    if deferred:
        MAILS.labels(mail.kind.value, "deferred").inc()
        log.info("mail_deferred", mail_id=str(mail.id), kind=mail.kind.value, attempts=mail.attempts, reason=reason)


async def _end(ctx: Context, mail: Mail, state: MailState, *, outcome: str) -> bool:
    """Give a mail its last state; whether that is to have been sent."""
    async with ctx.transaction() as conn:
        ended = await queries.update_ended(conn, mail=mail, state=state, outcome=outcome)
    if ended:
        MAILS.labels(mail.kind.value, state.value).inc()
    say = log.info if state in (MailState.SENT, MailState.SKIPPED) else log.error
    say(f"mail_{state.value}", mail_id=str(mail.id), kind=mail.kind.value, attempts=mail.attempts, outcome=outcome)
    return state is MailState.SENT


async def _give_up_lost(ctx: Context) -> None:
    async with ctx.transaction() as conn:
        lost = await queries.update_lost(conn, now=ctx.now(), limit=LOST_BATCH)
    for mail_id, kind in lost:
        MAILS.labels(kind.value, MailState.UNKNOWN.value).inc()
        log.error("mail_unknown", mail_id=str(mail_id), kind=kind.value, outcome="interrupted")


def retry_after(attempts: int) -> timedelta:
    """How long to wait after so many attempts: twice as long each time, up to an hour."""
    return min(FIRST_RETRY * (1 << min(attempts - 1, 10)), LAST_RETRY)
