"""What a token costs."""

from decimal import Decimal

import pytest

from zenzefi.access.errors import UnknownDuration
from zenzefi.access.pricing import price_of

PRICES = {24: Decimal("18.00"), 1: Decimal("1.00")}


def test_a_token_costs_what_the_settings_say() -> None:
    assert price_of(24, prices=PRICES) == Decimal("18.00")


@pytest.mark.parametrize("hours", [0, -24, 2, 23, 48, 2**31])
def test_other_durations_are_not_sold(hours: int) -> None:
    with pytest.raises(UnknownDuration) as refused:
        price_of(hours, prices=PRICES)
    assert refused.value.detail == "Tokens are sold for 1, 24 hours."
