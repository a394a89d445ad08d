"""Bonuses for those who bring others: 10 % of the first purchase over 100 ZNC of each referred user, once.

A bonus is held from the purchase on and follows what stays bought: each refund takes its part back, and all of it once
what is left is no longer a large purchase. When no token of the purchase can be refunded any more (each was activated,
or has ended) a job pays out what is held.

Nobody refers themselves and there are no rings: a code belongs to somebody who was registered before, it is given once,
at registration, and the application's database role may not rewrite who brought whom. Whether two accounts are of one
person nobody can know; what such a person wins is at most 10 % off one purchase.
"""

from decimal import Decimal
from uuid import UUID

import structlog

from zenzefi.access import referral_queries
from zenzefi.access.models import BonusState, ReferralBonus
from zenzefi.access.referral_rules import bonus_of
from zenzefi.audit import service as audit
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.errors import JsonObject
from zenzefi.infra.db import Connection
from zenzefi.wallet import bonuses
from zenzefi.wallet.errors import WalletFull

log = structlog.get_logger(__name__)


async def hold(
    conn: Connection, *, ctx: Context, actor: Actor, user_id: UUID, purchase_transaction_id: UUID, cost: Decimal
) -> None:
    """Set a bonus aside when this purchase earns one. The caller's transaction has debited the buyer's wallet.

    Does nothing for a purchase that is not large, a buyer whom nobody brought, and all large purchases but the first:
    the lock on the wallet orders those of the same moment.
    """
    amount, now = bonus_of(cost), ctx.now()
    if not amount:
        return
    referrer_id = await referral_queries.insert_bonus(
        conn, user_id=user_id, purchase_transaction_id=purchase_transaction_id, amount=amount, now=now
    )
    if referrer_id is None:
        return
    await bonuses.hold(conn, amount=amount, transaction_id=ctx.new_id(), now=now)
    after: JsonObject = {
        "referrer_id": str(referrer_id),
        "amount": f"{amount:.2f}",
        "purchase_transaction_id": str(purchase_transaction_id),
    }
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor,
        action="referral.hold",
        resource_type="referral_bonus",
        resource_id=user_id,
        after=after,
    )


async def find_held(conn: Connection, *, token_id: UUID) -> ReferralBonus | None:
    """The bonus that a refund of this token will touch, locked: call it before the refund locks a wallet."""
    return await referral_queries.lock_held_bonus(conn, token_id=token_id)


async def take_back(conn: Connection, *, ctx: Context, actor: Actor, bonus: ReferralBonus) -> None:
    """Lower a locked bonus to what the purchase still earns after a refund, or end it."""
    kept = await referral_queries.get_kept(conn, purchase_transaction_id=bonus.purchase_transaction_id)
    amount, now = bonus_of(kept), ctx.now()
    if amount == bonus.amount:
        return
    state = BonusState.HELD if amount else BonusState.TAKEN_BACK
    await bonuses.take_back(conn, amount=bonus.amount - amount, transaction_id=ctx.new_id(), now=now)
    await referral_queries.update_bonus(conn, bonus=bonus, amount=amount, state=state, now=now)
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor,
        action="referral.take_back",
        resource_type="referral_bonus",
        resource_id=bonus.referred_user_id,
        before={"amount": f"{bonus.amount:.2f}"},
        after={"amount": f"{amount:.2f}"},
    )


async def pay_due(ctx: Context) -> int:
    """Pay out every bonus whose purchase is final; their number. Idempotent, and safe beside others doing the same."""
    paid, after = 0, UUID(int=0)
    while True:
        try:
            async with ctx.transaction() as conn:
                bonus = await referral_queries.lock_due_bonus(conn, after=after)
                if bonus is None:
                    return paid
                after = bonus.referred_user_id
                await _pay(conn, ctx, bonus)
        except WalletFull:
            log.warning("referral_bonus_waits", referred_user_id=str(after), reason="wallet_full")
        else:
            paid += 1


async def _pay(conn: Connection, ctx: Context, bonus: ReferralBonus) -> None:
    transaction_id, now = ctx.new_id(), ctx.now()
    await bonuses.pay_out(conn, user_id=bonus.referrer_id, amount=bonus.amount, transaction_id=transaction_id, now=now)
    await referral_queries.update_bonus(conn, bonus=bonus, amount=bonus.amount, state=BonusState.PAID, now=now)
    await audit.record(
        conn,
        ctx=ctx,
        actor=Actor.system(),
        action="referral.pay_out",
        resource_type="referral_bonus",
        resource_id=bonus.referred_user_id,
        after={
            "referrer_id": str(bonus.referrer_id),
            "amount": f"{bonus.amount:.2f}",
            "transaction_id": str(transaction_id),
        },
    )
