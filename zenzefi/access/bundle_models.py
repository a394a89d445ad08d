"""The words of bundles: what one holds, what it costs now, and what came of a purchase."""

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from zenzefi.access.models import IssuedToken


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleTerms:
    """What a superuser says of a bundle."""

    name: str
    description: str
    token_count: int
    duration_hours: int
    scope: str
    discount_percent: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle on offer."""

    bundle_id: UUID
    terms: BundleTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePrice:
    """What a bundle costs at the present prices, in ZNC.

    `token_prices` has what is paid for each of its tokens; their sum is `total`, to the kopeck.
    """

    base: Decimal
    total: Decimal
    token_prices: tuple[Decimal, ...]

    @property
    def savings(self) -> Decimal:
        """How much less it is than the same tokens bought one by one."""
        return self.base - self.total


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePurchase:
    """The tokens of a bundle that was just paid for, and what the wallet then held, in ZNC."""

    bundle_name: str
    tokens: tuple[IssuedToken, ...]
    cost: Decimal
    new_balance: Decimal
