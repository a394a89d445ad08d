"""How large a referral bonus is: a pure rule."""

from decimal import ROUND_DOWN, Decimal
from typing import Final

from zenzefi.wallet.models import CENT

LARGE_PURCHASE: Final = Decimal("100.00")  # ZNC; a purchase has to cost more
BONUS_SHARE: Final = Decimal("0.10")


def bonus_of(kept: Decimal) -> Decimal:
    """The bonus for a purchase of which so much (ZNC) was not refunded: 10 % of it, or 0 when it is not large."""
    if kept <= LARGE_PURCHASE:
        return Decimal("0.00")
    return (kept * BONUS_SHARE).quantize(CENT, ROUND_DOWN)
