"""What can be wrong with a movement of money."""

from decimal import Decimal
from typing import ClassVar

from zenzefi.errors import NotFound, ZenzefiError
from zenzefi.wallet.models import CURRENCY, MAX_BALANCE


class InsufficientFunds(ZenzefiError):
    """The wallet does not hold enough"""

    status: ClassVar[int] = 402
    code: ClassVar[str] = "insufficient_funds"

    def __init__(self, *, needed: Decimal, available: Decimal) -> None:
        """Take both amounts, which the client is told."""
        super().__init__(
            f"{needed:.2f} {CURRENCY} are needed, {available:.2f} {CURRENCY} are available. Top up the wallet first.",
            needed=f"{needed:.2f}",
            available=f"{available:.2f}",
        )


class InvalidAmount(ZenzefiError):
    """The amount is not one that can be moved"""

    status: ClassVar[int] = 422
    code: ClassVar[str] = "invalid_amount"

    def __init__(self) -> None:
        """Say what is allowed."""
        super().__init__(f"An amount is from 0.01 to {MAX_BALANCE} {CURRENCY} and has at most two decimals.")


class WalletFull(ZenzefiError):
    """The wallet would hold more than a wallet can"""

    status: ClassVar[int] = 409
    code: ClassVar[str] = "wallet_full"

    def __init__(self) -> None:
        """Name the bound."""
        super().__init__(f"A wallet holds at most {MAX_BALANCE} {CURRENCY}.")


class WalletOwnerNotFound(NotFound):
    """There is no such user, hence no wallet"""

    code: ClassVar[str] = "wallet_owner_not_found"
