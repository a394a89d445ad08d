"""How payments end: by their provider's events, or by asking it. Each is credited exactly once.

The row's lock puts all who report the same payment in a queue, over all processes; the first success credits the wallet
in the transaction that makes the payment succeeded, and the others find it so. An event is answered after that commit,
hence whatever fails before it is delivered again, or found by the job.
"""

import time
from datetime import timedelta

import structlog

from zenzefi.audit import service as audit
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.errors import ZenzefiError
from zenzefi.infra.business_instruments import PAYMENT_ALARMS, PAYMENT_NOTICES, PAYMENTS
from zenzefi.infra.db import Connection
from zenzefi.settings import PaymentProviderName
from zenzefi.wallet import payment_queries as queries
from zenzefi.wallet import payments
from zenzefi.wallet.payment_errors import (
    PaymentMismatch,
    PaymentNotFound,
    PaymentProviderUnavailable,
    UnknownPaymentProvider,
)
from zenzefi.wallet.payment_models import (
    Notice,
    Payment,
    PaymentHint,
    PaymentReport,
    PaymentStatus,
    can_become,
    find_mismatch,
)
from zenzefi.wallet.providers import PaymentProvider, find_provider, usable_providers

# A payment that nobody went on with is ended then; one that is paid later all the same is credited all the same.
LIFETIME = timedelta(hours=1)
# Some providers end unpaid payments only by themselves, within days; after this they are not waited for any more.
GIVE_UP_AFTER = timedelta(days=7)
# Between two questions about the same payment at least; a payment's age, up to an hour, where that is more.
CHECK_INTERVAL = timedelta(minutes=5)
# A run may ask twice more, at a provider that is slow, before the job's own timeout of a minute.
HEAL_BUDGET_S = 20.0

log = structlog.get_logger(__name__)


async def receive(ctx: Context, *, provider_name: str, notice: Notice, actor: Actor) -> None:
    """Take an event of a provider; when this returns, what it says is committed.

    Raises:
        UnknownPaymentProvider: there is none of this name here.
        BadSignature, StaleNotice, NoticeFromElsewhere, BadNotice: the event is not to be believed or read.
        PaymentNotFound: no such payment, or not yet; the provider will deliver the event again.
        PaymentMismatch: it contradicts the payment; nothing has changed but the audit log.
        PaymentProviderUnavailable, PaymentProviderError: the provider could not be asked.
    """
    outcome = "failed"
    try:
        await _receive(ctx, provider_name=provider_name, notice=notice, actor=actor)
        outcome = "taken"
    except ZenzefiError as error:
        outcome = error.code
        raise
    finally:
        PAYMENT_NOTICES.labels(provider_name, outcome).inc()


async def settle(ctx: Context, *, provider: PaymentProviderName, report: PaymentReport, actor: Actor) -> bool:
    """Bring a payment to the state that its provider reports; whether it changed. May be repeated at will.

    Locks the payment, then its owner's wallet.

    Raises:
        PaymentNotFound: there is no such payment.
        PaymentMismatch: payment, amount or currency are not ours; alarmed in the log and the audit log.
        WalletFull: the wallet cannot take the credit; nothing has changed.
    """
    async with ctx.transaction() as conn:
        payment = await _lock_reported(conn, provider=provider, report=report)
        mismatch = find_mismatch(payment, report, provider=provider)
        if mismatch is None and payment.provider_payment_id is None:
            mismatch = await _take_provider_id(conn, payment=payment, report=report)
        if mismatch is not None:
            await _record_refusal(conn, ctx=ctx, payment=payment, report=report, mismatch=mismatch, actor=actor)
        elif can_become(payment.status, report.status):
            await payments.end(conn, ctx=ctx, payment=payment, status=report.status, actor=actor)
            return True
    if mismatch is not None:
        PAYMENTS.labels(provider, "refused").inc()
        PAYMENT_ALARMS.labels("refused").inc()
        log.error("payment_refused", payment_id=str(payment.id), provider=provider, mismatch=mismatch)
        raise PaymentMismatch(f"The {mismatch} of the event and of the payment differ.")
    return False


async def heal(ctx: Context) -> int:
    """Ask the providers about pending payments that no event came for; how many have ended by that.

    Each payment is taken by one worker, under a lock that is held for no question; its next check is put off first,
    so that one that fails does not keep the others waiting.
    """
    ended, stop_at = 0, time.monotonic() + HEAL_BUDGET_S
    for provider in usable_providers(ctx):
        while time.monotonic() < stop_at and (payment := await _claim_due(ctx, provider=provider)) is not None:
            try:
                ended += await _heal_one(ctx, provider=provider, payment=payment)
            except PaymentProviderUnavailable:
                break  # it has been logged; the next run finds the provider back
            except ZenzefiError as error:
                PAYMENT_ALARMS.labels("not_healed").inc()
                log.error("payment_not_healed", payment_id=str(payment.id), code=error.code)  # noqa: TRY400
    return ended


async def _receive(ctx: Context, *, provider_name: str, notice: Notice, actor: Actor) -> None:
    provider = find_provider(ctx, provider_name)
    if provider is None:
        raise UnknownPaymentProvider
    said = provider.read_notice(notice)
    if isinstance(said, PaymentHint):
        said = await _confirm(ctx, provider=provider, hint=said)
    if said is not None:
        await settle(ctx, provider=provider.name, report=said, actor=actor)


async def _claim_due(ctx: Context, *, provider: PaymentProvider) -> Payment | None:
    async with ctx.transaction() as conn:
        now = ctx.now()
        return await queries.claim_due_payment(
            conn, provider=provider.name, now=now, next_check_at=now + CHECK_INTERVAL
        )


async def _heal_one(ctx: Context, *, provider: PaymentProvider, payment: Payment) -> bool:
    age = ctx.now() - payment.created_at
    report = None
    if payment.provider_payment_id is not None:
        report = await provider.find(payment.provider_payment_id)
        if report is not None and report.status is PaymentStatus.PENDING and age > LIFETIME:
            report = await provider.cancel(payment.provider_payment_id)
    if report is not None:
        changed = await settle(ctx, provider=provider.name, report=report, actor=Actor.system())
        if changed or report.status is not PaymentStatus.PENDING or age <= GIVE_UP_AFTER:
            return changed
    elif age <= LIFETIME:
        return False  # the provider has not been told yet: nobody has a page to pay on, or is just getting it
    return await _expire(ctx, payment=payment)


async def _expire(ctx: Context, *, payment: Payment) -> bool:
    async with ctx.transaction() as conn:
        current = await queries.lock_payment(conn, payment_id=payment.id)
        if current is None or current.status is not PaymentStatus.PENDING:
            return False
        await payments.end(conn, ctx=ctx, payment=current, status=PaymentStatus.EXPIRED, actor=Actor.system())
    return True


async def _confirm(ctx: Context, *, provider: PaymentProvider, hint: PaymentHint) -> PaymentReport:
    """Ask the provider what an unsigned event is about: only of payments of ours, so that strangers cannot make us."""
    async with ctx.connection() as conn:
        payment = await queries.find_payment_of_provider(
            conn, provider=provider.name, provider_payment_id=hint.provider_payment_id
        )
        if payment is None and hint.payment_id is not None:
            payment = await queries.find_payment(conn, payment_id=hint.payment_id)
    if payment is None or payment.provider is not provider.name:
        raise PaymentNotFound
    report = await provider.find(hint.provider_payment_id)
    if report is None:
        raise PaymentNotFound
    return report


async def _lock_reported(conn: Connection, *, provider: PaymentProviderName, report: PaymentReport) -> Payment:
    payment_id = report.payment_id
    if payment_id is None:
        known = await queries.find_payment_of_provider(
            conn, provider=provider, provider_payment_id=report.provider_payment_id
        )
        payment_id = None if known is None else known.id
    payment = None if payment_id is None else await queries.lock_payment(conn, payment_id=payment_id)
    if payment is None:
        PAYMENT_ALARMS.labels("unknown").inc()
        log.warning("payment_unknown", provider=provider, provider_payment_id=report.provider_payment_id)
        raise PaymentNotFound
    return payment


async def _take_provider_id(conn: Connection, *, payment: Payment, report: PaymentReport) -> str | None:
    """Learn the provider's id of a payment from its report; names the mismatch when the id is another payment's."""
    other = await queries.find_payment_of_provider(
        conn, provider=payment.provider, provider_payment_id=report.provider_payment_id
    )
    if other is not None:
        return "provider's payment"
    await queries.update_provider_payment_id(
        conn, payment_id=payment.id, provider_payment_id=report.provider_payment_id
    )
    return None


async def _record_refusal(
    conn: Connection, *, ctx: Context, payment: Payment, report: PaymentReport, mismatch: str, actor: Actor
) -> None:
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor,
        action="payment.refuse",
        resource_type="payment",
        resource_id=payment.id,
        before={
            "provider_payment_id": payment.provider_payment_id,
            "amount": f"{payment.amount:.2f}",
            "currency": payment.currency,
        },
        after={
            "mismatch": mismatch,
            "status": report.status.value,
            "provider_payment_id": report.provider_payment_id,
            "amount": f"{report.amount:.2f}",
            "currency": report.currency[:8],
        },
    )
