"""How a token is ended before its time: given back by its owner, or taken away by a superuser or an operator."""

from decimal import Decimal
from uuid import UUID

from zenzefi.access import lifecycle, queries, referral_bonuses, revocation
from zenzefi.access.models import AccessToken, TokenRefund, TokenRevocation, terms_of
from zenzefi.audit import service as audit
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.errors import JsonObject
from zenzefi.infra.business_instruments import TOKENS_ENDED
from zenzefi.infra.db import Connection, after_commit
from zenzefi.wallet import service as wallet
from zenzefi.wallet.models import LedgerEntry, SystemAccount, TransactionType


async def refund(ctx: Context, *, actor: Actor, user_id: UUID, token_id: UUID) -> TokenRefund:
    """End a token that was never activated and give back the price that was paid for it, once.

    Locks the token, a referral bonus for it, then the wallet. A second call finds the token ended.

    Raises:
        TokenNotFound: there is none, or it is another user's.
        TokenActivated: its clock has started.
        TokenEnded: it was refunded or revoked before.
    """
    async with ctx.transaction() as conn:
        token = await queries.lock_token(conn, token_id=token_id, user_id=user_id)
        entry = await _refund(conn, ctx, token=token, actor=actor)
    await revocation.announce(ctx, token_hashes=[token.token_hash])
    return TokenRefund(amount=token.price, new_balance=entry.balance_after)


async def revoke(ctx: Context, *, actor: Actor, token_id: UUID, with_refund: bool) -> TokenRevocation:
    """End anybody's token within a second, its open streams included; on request with a refund of the price paid.

    Locks as ``refund`` does. A second call finds the token ended.

    Raises:
        TokenNotFound: there is none.
        TokenActivated: a refund was asked for, and the token's clock has started; the token is left as it is.
        TokenEnded: it has ended or expired before.
    """
    async with ctx.transaction() as conn:
        token = await queries.lock_token_of_anybody(conn, token_id=token_id)
        if with_refund:
            refunded = (await _refund(conn, ctx, token=token, actor=actor)).amount
        else:
            refunded = Decimal("0.00")
            await _revoke(conn, ctx, token=token, actor=actor)
    await revocation.announce(ctx, token_hashes=[token.token_hash])
    return TokenRevocation(token_id=token_id, user_id=token.user_id, refund_amount=refunded)


async def suspend_tokens(ctx: Context, *, user_id: UUID) -> None:
    """End the use of all tokens of a user who was just banned, in every process at once. Call it after the commit.

    The ban itself is what ends it; this is so that no process goes on by what it remembers.
    """
    async with ctx.connection() as conn:
        token_hashes = await queries.select_open_hashes(conn, user_id=user_id)
    await revocation.announce(ctx, token_hashes=token_hashes)


async def resume_tokens(ctx: Context, *, user_id: UUID) -> None:
    """Let the tokens of a user whose ban was lifted be remembered again. Call it after the commit."""
    async with ctx.connection() as conn:
        token_hashes = await queries.select_open_hashes(conn, user_id=user_id)
    await revocation.welcome_back(ctx, token_hashes=token_hashes)


async def _refund(conn: Connection, ctx: Context, *, token: AccessToken, actor: Actor) -> LedgerEntry:
    lifecycle.require_refundable(token)
    bonus = await referral_bonuses.find_held(conn, token_id=token.token_id)
    transaction_id, now = ctx.new_id(), ctx.now()
    entry = await wallet.credit(
        conn,
        user_id=token.user_id,
        amount=token.price,
        transaction_type=TransactionType.REFUND,
        description=f"Refund of the unused access token {token.token_hint}…",
        source=SystemAccount.REVENUE,
        transaction_id=transaction_id,
        now=now,
    )
    await queries.update_refunded(conn, token_id=token.token_id, refund_transaction_id=transaction_id, now=now)
    after: JsonObject = {"end_reason": "refunded", "refund_amount": f"{token.price:.2f}"}
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor,
        action="token.refund",
        resource_type="access_token",
        resource_id=token.token_id,
        before=terms_of(token),
        after=after,
    )
    after_commit(conn, TOKENS_ENDED.labels("refunded").inc)
    if bonus is not None:
        await referral_bonuses.take_back(conn, ctx=ctx, actor=actor, bonus=bonus)
    return entry


async def _revoke(conn: Connection, ctx: Context, *, token: AccessToken, actor: Actor) -> None:
    now = ctx.now()
    lifecycle.require_open(token, now=now)
    await queries.update_revoked(conn, token_id=token.token_id, now=now)
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor,
        action="token.revoke",
        resource_type="access_token",
        resource_id=token.token_id,
        before=terms_of(token),
        after={"end_reason": "revoked"},
    )
    after_commit(conn, TOKENS_ENDED.labels("revoked").inc)
