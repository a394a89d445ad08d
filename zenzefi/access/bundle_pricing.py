"""What a bundle costs: pure rules over its terms and the prices that the settings name."""

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal

from zenzefi.access.bundle_models import BundlePrice, BundleTerms
from zenzefi.access.pricing import price_of
from zenzefi.wallet.models import CENT

_HUNDRED = Decimal(100)


def price_bundle(terms: BundleTerms, *, prices: Mapping[int, Decimal]) -> BundlePrice:
    """The price of a bundle, and of each of its tokens.

    The discount is taken from the whole, which is rounded to the kopeck once; no token is cheaper than one kopeck.

    Raises:
        UnknownDuration: no token of the bundle's duration is sold any more.
    """
    base = price_of(terms.duration_hours, prices=prices) * terms.token_count
    discounted = (base * (_HUNDRED - terms.discount_percent) / _HUNDRED).quantize(CENT, ROUND_HALF_UP)
    total = max(discounted, CENT * terms.token_count)
    return BundlePrice(base=base, total=total, token_prices=share_out(total, terms.token_count))


def share_out(total: Decimal, parts: int) -> tuple[Decimal, ...]:
    """Amounts that differ by a kopeck at most and sum up to the total, the greater ones first."""
    share, left_over = divmod(int(total / CENT), parts)
    return tuple(CENT * (share + (part < left_over)) for part in range(parts))
