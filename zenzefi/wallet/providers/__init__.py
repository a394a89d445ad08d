"""Payment providers: one protocol, and an adapter for each."""

from zenzefi.context import Context
from zenzefi.settings import PaymentProviderName, Settings
from zenzefi.wallet.providers.mock import MockProvider
from zenzefi.wallet.providers.protocol import PaymentProvider
from zenzefi.wallet.providers.stripe import Stripe
from zenzefi.wallet.providers.yookassa import YooKassa

__all__ = ["PaymentProvider", "find_provider", "offers_mock_payment", "usable_providers"]


def offers_mock_payment(settings: Settings) -> bool:
    """Whether money that nobody paid for has a way in; elsewhere there must be none, not even a 403."""
    return settings.is_development and settings.payment_provider is PaymentProviderName.MOCK


def find_provider(ctx: Context, name: str) -> PaymentProvider | None:
    """The provider of a name; None when there is none such, or it is not set up here.

    One whose keys are set still settles what was begun with it after PAYMENT_PROVIDER names another.
    """
    settings = ctx.settings
    match name:
        case PaymentProviderName.MOCK if offers_mock_payment(settings):
            return MockProvider(ctx)
        case PaymentProviderName.YOOKASSA if settings.yookassa_shop_id and settings.yookassa_secret_key:
            return YooKassa(settings)
        case PaymentProviderName.STRIPE if settings.stripe_secret_key and settings.payment_webhook_secrets:
            return Stripe(settings)
    return None


def usable_providers(ctx: Context) -> list[PaymentProvider]:
    """All that are set up here."""
    found = (find_provider(ctx, name) for name in PaymentProviderName)
    return [provider for provider in found if provider is not None]
