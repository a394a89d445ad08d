"""What a token costs: a pure rule over the prices that the settings name."""

from collections.abc import Mapping
from decimal import Decimal

from zenzefi.access.errors import UnknownDuration


def price_of(duration_hours: int, *, prices: Mapping[int, Decimal]) -> Decimal:
    """The price in ZNC of one token; the scope does not change it.

    Raises:
        UnknownDuration: no token of this many hours is sold; the detail lists those that are.
    """
    price = prices.get(duration_hours)
    if price is None:
        offered = ", ".join(str(hours) for hours in sorted(prices))
        raise UnknownDuration(f"Tokens are sold for {offered} hours.")
    return price
