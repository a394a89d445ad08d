"""The metrics of the business: accounts, money, payments, tokens, sessions and mails, counted once they are committed.

Sums of money are float here, and are for looking at; the ledger alone is exact (zenzefi.wallet).
"""

from typing import Final

from zenzefi.infra.instruments import REGISTRY
from zenzefi.infra.metrics import Label
from zenzefi.settings import PaymentProviderName

_PROVIDER: Final = Label(
    "provider", (name.value for name in PaymentProviderName if name is not PaymentProviderName.NONE)
)

REGISTRATIONS: Final = REGISTRY.counter("zenzefi_registrations_total", "Accounts that were made")
LOGINS: Final = REGISTRY.counter(
    "zenzefi_logins_total", "Password checks, by what came of them", Label("outcome", ("accepted", "refused"))
)

PURCHASES: Final = REGISTRY.counter("zenzefi_purchases_total", "Purchases of a token or of a bundle")
PURCHASES_ZNC: Final = REGISTRY.counter("zenzefi_purchases_znc_total", "What was paid for purchases, in ZNC")
TOKENS_SOLD: Final = REGISTRY.counter(
    "zenzefi_tokens_sold_total",
    "Tokens that were sold, those of bundles included",
    Label("duration_hours", (1, 12, 24, 168, 720)),
)
TOKENS_ACTIVATED: Final = REGISTRY.counter("zenzefi_tokens_activated_total", "Tokens whose clock was started")
TOKENS_ENDED: Final = REGISTRY.counter(
    "zenzefi_tokens_ended_total", "Tokens that ended", Label("reason", ("expired", "refunded", "revoked"))
)
REFUNDS: Final = REGISTRY.counter("zenzefi_refunds_total", "Tokens that were given back for their price")
REFUNDS_ZNC: Final = REGISTRY.counter("zenzefi_refunds_znc_total", "What was paid back for tokens, in ZNC")
DEPOSITS: Final = REGISTRY.counter("zenzefi_deposits_total", "Top-ups of wallets, mock payments included")
DEPOSITS_ZNC: Final = REGISTRY.counter("zenzefi_deposits_znc_total", "What wallets were topped up with, in ZNC")
BONUSES_ZNC: Final = REGISTRY.counter("zenzefi_referral_bonuses_znc_total", "Referral bonuses that were paid, in ZNC")
ADJUSTMENTS_ZNC: Final = REGISTRY.counter(
    "zenzefi_adjustments_znc_total",
    "What operators and superusers moved by hand into and out of wallets, in ZNC",
    Label("direction", ("in", "out")),
)

PAYMENTS: Final = REGISTRY.counter(
    "zenzefi_payments_total",
    "What became of payments; one that is refused was reported with another amount, currency or id than its own",
    _PROVIDER,
    Label("outcome", ("created", "opened", "succeeded", "canceled", "expired", "refused")),
)
PAYMENT_NOTICES: Final = REGISTRY.counter(
    "zenzefi_payment_notices_total",
    "Events that came in a provider's name: taken, or the code of the error that they were answered with",
    _PROVIDER,
    Label(
        "outcome",
        (
            *("taken", "bad_signature", "stale_event", "bad_event", "event_from_elsewhere"),
            *("payment_not_found", "payment_mismatch", "wallet_full", "database_unavailable"),
            *("payment_provider_unavailable", "payment_provider_error", "unknown_payment_provider", "failed"),
        ),
    ),
)
PAYMENT_PROVIDER_CALLS: Final = REGISTRY.counter(
    "zenzefi_payment_provider_calls_total",
    "Questions to payment providers, by what came of them",
    _PROVIDER,
    Label("outcome", ("answered", "refused", "unavailable", "unreadable")),
)
PAYMENT_ALARMS: Final = REGISTRY.counter(
    "zenzefi_payment_alarms_total",
    "Payments that somebody should look at; the log has a line payment_<alarm> with the payment's id for each",
    Label("alarm", ("refused", "not_credited", "succeeded_late", "opened_twice", "not_healed", "unknown")),
)

SESSIONS_OPENED: Final = REGISTRY.counter("zenzefi_sessions_opened_total", "Sessions of use that were begun")

MAILS: Final = REGISTRY.counter(
    "zenzefi_mails_total",
    "Mails by kind: queued in the outbox, sent, deferred to another try, failed for good, skipped as outdated, or "
    "unknown, because the server may have it or not",
    Label("kind", ("token_expiring", "low_balance", "payment_received", "password_changed")),
    Label("outcome", ("queued", "sent", "deferred", "failed", "skipped", "unknown")),
)
