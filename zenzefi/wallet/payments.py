"""Use cases of the payer: beginning a payment, having its page made, and looking at it; and the step that ends one.

A payment's row is committed before its provider hears of it, and the provider is given the row's id: whatever comes
first, its event or its answer to us, finds the row. The provider is never asked inside a database transaction.
"""

import re
from datetime import timedelta
from decimal import Decimal
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

import structlog

from zenzefi.audit import service as audit
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.errors import Invalid
from zenzefi.infra.business_instruments import PAYMENT_ALARMS, PAYMENTS
from zenzefi.infra.db import Connection, after_commit
from zenzefi.settings import Settings
from zenzefi.wallet import notices, service
from zenzefi.wallet import payment_queries as queries
from zenzefi.wallet.errors import WalletFull
from zenzefi.wallet.models import SystemAccount, TransactionType
from zenzefi.wallet.payment_errors import (
    PaymentEnded,
    PaymentNotFound,
    PaymentProviderError,
    PaymentRefusedByProvider,
    PaymentsNotOffered,
)
from zenzefi.wallet.payment_models import (
    PAYMENT_CURRENCY,
    Payment,
    PaymentEvent,
    PaymentStatus,
    TimelineEntry,
    price_of,
)
from zenzefi.wallet.providers import PaymentProvider, find_provider
from zenzefi.web.idempotency import IdempotencyInProgress

# When the job first asks about a payment by itself: most are paid, and their events come, within that.
FIRST_CHECK_AFTER = timedelta(minutes=5)
# On top of the longest question to a provider: if the process that asks is killed, a retry takes over then.
_LEASE_MARGIN_S = 10.0
_RETRY_AFTER_S = 2
MAX_RETURN_URL_CHARS = 2048
_URL: Final = re.compile(r"https://[!-\[\]-~]+")  # visible ASCII without a backslash, which browsers take for a slash

_VERBS = {
    PaymentStatus.SUCCEEDED: "succeed",
    PaymentStatus.CANCELED: "cancel",
    PaymentStatus.EXPIRED: "expire",
}

log = structlog.get_logger(__name__)


async def create(
    conn: Connection, *, ctx: Context, user_id: UUID, amount_znc: Decimal, return_url: str, actor: Actor
) -> Payment:
    """Begin a payment; no provider hears of it before ``open_page``.

    Raises:
        PaymentsNotOffered: PAYMENT_PROVIDER is none.
        Invalid: the return address is not one of PAYMENT_RETURN_HOSTS.
    """
    provider = find_provider(ctx, ctx.settings.payment_provider)
    if provider is None:
        raise PaymentsNotOffered("This installation takes no payments.")
    if not is_allowed_return_url(return_url, ctx.settings):
        raise Invalid({"return_url": ["Give an https address on a host that payers may be sent back to."]})
    payment = Payment(
        id=ctx.new_id(),
        user_id=user_id,
        provider=provider.name,
        provider_payment_id=None,
        status=PaymentStatus.PENDING,
        amount_znc=amount_znc,
        amount=price_of(amount_znc, rate=ctx.settings.znc_to_rub_rate),
        currency=PAYMENT_CURRENCY,
        return_url=return_url,
        payment_url=None,
        created_at=ctx.now(),
    )
    await queries.insert_payment(conn, payment=payment, next_check_at=payment.created_at + FIRST_CHECK_AFTER)
    await note(conn, ctx=ctx, payment=payment, event=PaymentEvent.CREATED)
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor,
        action="payment.create",
        resource_type="payment",
        resource_id=payment.id,
        after={
            "provider": payment.provider.value,
            "amount_znc": f"{payment.amount_znc:.2f}",
            "amount": f"{payment.amount:.2f}",
            "currency": payment.currency,
        },
    )
    return payment


async def open_page(ctx: Context, *, payment_id: UUID, actor: Actor) -> str:
    """Have the provider make the page of a payment, unless it has; the page's address.

    One request at a time asks, by a lease in the row; when it fails or dies, a repetition continues with the same
    payment, which the provider recognises by its id.

    Raises:
        IdempotencyInProgress: another request is asking the provider at this moment.
        PaymentEnded: the payment has ended without a page.
        PaymentProviderUnavailable, PaymentProviderError: nothing was charged.
    """
    lease = timedelta(seconds=ctx.settings.payment_provider_timeout_s + _LEASE_MARGIN_S)
    async with ctx.transaction() as conn:
        now = ctx.now()
        payment = await queries.claim_opening(conn, payment_id=payment_id, now=now, until=now + lease)
        if payment is None:
            return _page_of(await queries.find_payment(conn, payment_id=payment_id))
    provider = find_provider(ctx, payment.provider)
    if provider is None:
        raise PaymentsNotOffered("This payment's provider is no longer in use here.")
    return await _ask_for_page(ctx, provider=provider, payment=payment, actor=actor)


async def end(conn: Connection, *, ctx: Context, payment: Payment, status: PaymentStatus, actor: Actor) -> None:
    """Give a payment, whose row the caller has locked, its last state, and with success its credit.

    Locks the owner's wallet with success.

    Raises:
        WalletFull: the wallet cannot take the credit; the transaction can only be rolled back.
    """
    transaction_id = ctx.new_id() if status is PaymentStatus.SUCCEEDED else None
    if transaction_id is not None:
        try:
            entry = await service.credit(
                conn,
                user_id=payment.user_id,
                amount=payment.amount_znc,
                transaction_type=TransactionType.DEPOSIT,
                description="Payment",
                source=SystemAccount.DEPOSITS,
                transaction_id=transaction_id,
                now=ctx.now(),
                payment_id=payment.id,
            )
        except WalletFull:
            PAYMENT_ALARMS.labels("not_credited").inc()
            log.error("payment_not_credited", payment_id=str(payment.id), reason=WalletFull.code)  # noqa: TRY400
            raise
        await notices.tell_of_payment(conn, ctx=ctx, user_id=payment.user_id, entry=entry, reference=payment.id)
    if payment.status is not PaymentStatus.PENDING:
        after_commit(conn, PAYMENT_ALARMS.labels("succeeded_late").inc)
        log.warning("payment_succeeded_late", payment_id=str(payment.id), status=payment.status)
    await queries.update_status(conn, payment_id=payment.id, status=status, ledger_transaction_id=transaction_id)
    await note(conn, ctx=ctx, payment=payment, event=PaymentEvent(status))
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor,
        action=f"payment.{_VERBS[status]}",
        resource_type="payment",
        resource_id=payment.id,
        before={"status": payment.status.value},
        after={
            "status": status.value,
            "user_id": str(payment.user_id),
            "amount_znc": f"{payment.amount_znc:.2f}",
            "ledger_transaction_id": str(transaction_id) if transaction_id else None,
        },
    )


async def get_payment(ctx: Context, *, user_id: UUID, payment_id: UUID) -> tuple[Payment, list[TimelineEntry]]:
    """A payment of one's own, and what became of it.

    Raises:
        PaymentNotFound: there is none, or it is another's.
    """
    async with ctx.connection() as conn:
        payment = await queries.find_payment_of_user(conn, payment_id=payment_id, user_id=user_id)
        if payment is None:
            raise PaymentNotFound
        return payment, await queries.select_events(conn, payment_id=payment_id)


async def note(conn: Connection, *, ctx: Context, payment: Payment, event: PaymentEvent) -> None:
    """Add a line to a payment's timeline."""
    await queries.insert_event(conn, event_id=ctx.new_id(), payment_id=payment.id, event=event, at=ctx.now())
    after_commit(conn, PAYMENTS.labels(payment.provider, event).inc)


def is_allowed_return_url(url: str, settings: Settings) -> bool:
    """Whether a payer may be sent there: https, and on a host of the list or, without one, on our own."""
    if len(url) > MAX_RETURN_URL_CHARS or not _URL.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if "@" in parts.netloc or not host:
        return False
    own = urlsplit(settings.backend_url).hostname or ""
    place = host if port in (None, 443) else f"{host}:{port}"
    return place in (settings.payment_return_hosts or (own,))


async def _ask_for_page(ctx: Context, *, provider: PaymentProvider, payment: Payment, actor: Actor) -> str:
    try:
        opened = await provider.open(payment)
    except PaymentRefusedByProvider:
        async with ctx.transaction() as conn:
            current = await queries.lock_payment(conn, payment_id=payment.id)
            if current is not None and current.status is PaymentStatus.PENDING:
                await end(conn, ctx=ctx, payment=current, status=PaymentStatus.CANCELED, actor=actor)
        raise
    except Exception:
        async with ctx.transaction() as conn:
            await queries.release_opening(conn, payment_id=payment.id)
        raise
    async with ctx.transaction() as conn:
        kept = await queries.update_opened(
            conn,
            payment_id=payment.id,
            provider_payment_id=opened.provider_payment_id,
            payment_url=opened.payment_url,
        )
        if kept:
            await note(conn, ctx=ctx, payment=payment, event=PaymentEvent.OPENED)
    if not kept:
        PAYMENT_ALARMS.labels("opened_twice").inc()
        log.error("payment_opened_twice", payment_id=str(payment.id), provider=provider.name)
        raise PaymentProviderError
    return opened.payment_url


def _page_of(payment: Payment | None) -> str:
    if payment is None:
        raise PaymentNotFound
    if payment.payment_url is not None:
        return payment.payment_url
    if payment.status is not PaymentStatus.PENDING:
        raise PaymentEnded("It ended before it could be paid. Begin a new one with a new Idempotency-Key.")
    raise IdempotencyInProgress(
        f"The payment is being opened. Try again in {_RETRY_AFTER_S} s.",
        headers={"Retry-After": str(_RETRY_AFTER_S)},
        retry_after=_RETRY_AFTER_S,
    )
