"""A process that debits one wallet as fast as it can: `python -m tests.wallet.spender USER_ID AMOUNT COUNT`.

Prints "ready", begins when a line comes in, and prints how many debits were made and refused, as JSON.
"""

import asyncio
import json
import sys
from decimal import Decimal
from uuid import UUID

from tests.wallet.ledger import debit
from zenzefi.context import open_context
from zenzefi.settings import Settings
from zenzefi.wallet.errors import InsufficientFunds
from zenzefi.wallet.models import LedgerEntry


async def main(user_id: UUID, amount: Decimal, count: int) -> None:
    async with open_context(Settings.from_env()) as ctx:
        # As many at once as there are connections: waiting for one ends in DatabaseUnavailable on a busy machine.
        connections = asyncio.Semaphore(ctx.settings.postgres_pool_size)

        async def spend() -> LedgerEntry:
            async with connections:
                return await debit(ctx, user_id, amount)

        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        outcomes = await asyncio.gather(*(spend() for _ in range(count)), return_exceptions=True)
    made = sum(isinstance(outcome, LedgerEntry) for outcome in outcomes)
    refused = sum(isinstance(outcome, InsufficientFunds) for outcome in outcomes)
    others = [repr(outcome) for outcome in outcomes if not isinstance(outcome, LedgerEntry | InsufficientFunds)]
    print(json.dumps({"made": made, "refused": refused, "others": others}))


if __name__ == "__main__":
    asyncio.run(main(UUID(sys.argv[1]), Decimal(sys.argv[2]), int(sys.argv[3])))
