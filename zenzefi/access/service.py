"""Use cases of access tokens.

Activation, refund, rotation and expiry of one token race each other; its row's lock orders them, and whoever comes
second decides by what the first one wrote. Locks are taken in the order token, wallet.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final
from uuid import UUID

from zenzefi.access import lifecycle, queries, referral_bonuses, revocation, scopes, token_format
from zenzefi.access.endings import refund, resume_tokens, revoke, suspend_tokens
from zenzefi.access.errors import TokenNotFound, TokenRejected
from zenzefi.access.issuing import issue, new_token_string
from zenzefi.access.models import AccessToken, IssuedToken, TokenGrant, terms_of
from zenzefi.access.pricing import price_of
from zenzefi.audit import service as audit
from zenzefi.audit.models import Actor, ActorKind
from zenzefi.context import Context
from zenzefi.infra.business_instruments import TOKENS_ACTIVATED, TOKENS_ENDED, TOKENS_SOLD
from zenzefi.infra.db import Connection, after_commit
from zenzefi.ratelimit import service as ratelimit
from zenzefi.wallet import notices
from zenzefi.wallet import service as wallet
from zenzefi.wallet.models import SystemAccount, TransactionType

__all__ = [
    "activate",
    "end_expired_tokens",
    "find_grant",
    "find_grants",
    "find_token",
    "find_token_hash",
    "get_token",
    "list_all_tokens",
    "list_tokens",
    "purchase",
    "refund",
    "release_device",
    "resume_tokens",
    "revoke",
    "rotate",
    "suspend_tokens",
]

# Each batch is one short transaction, so that no lock of the sweep holds a refund or an activation up noticeably.
EXPIRY_BATCH: Final = 500


async def purchase(
    conn: Connection, *, ctx: Context, actor: Actor, user_id: UUID, duration_hours: int, scope: str
) -> IssuedToken:
    """Buy one token: debit the wallet, store the token and an audit row, all in the caller's transaction.

    Locks the wallet. The string is in the result and nowhere else.

    Raises:
        UnknownDuration, UnknownScope: no such token is sold.
        InsufficientFunds: the wallet holds less than the price.
    """
    scopes.require_known(scope)
    price = price_of(duration_hours, prices=ctx.settings.token_prices)
    transaction_id, now = ctx.new_id(), ctx.now()
    issued = issue(ctx, user_id=user_id, duration_hours=duration_hours, scope=scope, price=price, now=now)
    token = issued.token
    # First, because the debit locks the wallet until the commit: what can be done before does not hold up the next one.
    await queries.insert_tokens(conn, tokens=[token], purchase_transaction_id=transaction_id)
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor,
        action="token.purchase",
        resource_type="access_token",
        resource_id=token.token_id,
        after=terms_of(token),
    )
    entry = await wallet.debit(
        conn,
        user_id=user_id,
        amount=price,
        transaction_type=TransactionType.PURCHASE,
        description=f"Access token for {duration_hours} h, scope {scope}",
        destination=SystemAccount.REVENUE,
        transaction_id=transaction_id,
        now=now,
    )
    after_commit(conn, TOKENS_SOLD.labels(duration_hours).inc)
    await referral_bonuses.hold(
        conn, ctx=ctx, actor=actor, user_id=user_id, purchase_transaction_id=transaction_id, cost=price
    )
    await notices.tell_of_low_balance(conn, ctx=ctx, user_id=user_id, entry=entry)
    return issued


async def list_tokens(
    ctx: Context, *, user_id: UUID, active_only: bool, before: UUID | None, limit: int
) -> tuple[list[AccessToken], UUID | None]:
    """A user's tokens, the newest first: the newest, or those with an id below `before`.

    With them comes the `before` of the next page, or None when nothing follows.
    """
    rows = limit + 1  # the one more tells whether anything follows
    async with ctx.connection() as conn:
        if active_only:
            tokens = await queries.select_open_tokens(conn, user_id=user_id, before=before, limit=rows, now=ctx.now())
        else:
            tokens = await queries.select_tokens(conn, user_id=user_id, before=before, limit=rows)
    page = tokens[:limit]
    return page, page[-1].token_id if len(tokens) > limit else None


async def list_all_tokens(
    ctx: Context, *, user_id: UUID | None, active_only: bool, before: UUID | None, limit: int
) -> tuple[list[AccessToken], UUID | None]:
    """As ``list_tokens``, of one user or of all: for superusers."""
    rows = limit + 1
    async with ctx.connection() as conn:
        tokens = await queries.select_tokens_of_anybody(
            conn, user_id=user_id, open_only=active_only, before=before, limit=rows, now=ctx.now()
        )
    page = tokens[:limit]
    return page, page[-1].token_id if len(tokens) > limit else None


async def find_token(ctx: Context, *, reference: str) -> AccessToken:
    """Anybody's token by its id or its string: for superusers and operators.

    Raises:
        TokenNotFound: there is none.
    """
    token_id, token_hash = None, None
    if token_format.is_well_formed(reference):
        token_hash = token_format.hash_token(reference)
    else:
        with suppress(ValueError):
            token_id = UUID(reference)
    async with ctx.connection() as conn:
        token = await queries.find_token(conn, token_id=token_id, token_hash=token_hash)
    if token is None:
        raise TokenNotFound("No token has this id or this string.")
    return token


async def get_token(ctx: Context, *, user_id: UUID, token_id: UUID) -> AccessToken:
    """One token of the user, ended or not.

    Raises:
        TokenNotFound: there is none, or it is another user's.
    """
    async with ctx.connection() as conn:
        return await queries.get_token(conn, token_id=token_id, user_id=user_id)


async def rotate(ctx: Context, *, actor: Actor, user_id: UUID, token_id: UUID) -> IssuedToken:
    """Give a token a new string; the old one dies within a second, its open streams included. Its clock runs on.

    The device lease is freed, too: a thief's device must not keep the owner out, and any device needs the new string.

    Raises:
        TokenNotFound: there is none, or it is another user's.
        TokenEnded: it has ended or expired.
    """
    token_string = new_token_string()
    token_hash, token_hint = token_format.hash_token(token_string), token_format.hint_of(token_string)
    async with ctx.transaction() as conn:
        old = await queries.lock_token(conn, token_id=token_id, user_id=user_id)
        now = ctx.now()
        lifecycle.require_open(old, now=now)
        new = await queries.update_hash(conn, token_id=token_id, token_hash=token_hash, token_hint=token_hint, now=now)
        await queries.delete_device_lease(conn, token_id=token_id)
        await audit.record(
            conn,
            ctx=ctx,
            actor=actor,
            action="token.rotate",
            resource_type="access_token",
            resource_id=token_id,
            before={"token_hint": old.token_hint},
            after={"token_hint": token_hint},
        )
    await revocation.announce(ctx, token_hashes=[old.token_hash])
    await ratelimit.carry_over(ctx, old_token_hash=old.token_hash, new_token_hash=token_hash)
    return IssuedToken(token=new, token_string=token_string)


async def release_device(ctx: Context, *, actor: Actor, user_id: UUID, token_id: UUID) -> datetime:
    """Free the device lease of a token, so that another device may take it, once per lifecycle.DEVICE_RELEASE_INTERVAL.

    The result is the instant from which on it may be released again.

    Raises:
        TokenNotFound: there is none, or it is another user's.
        TokenEnded: it has ended or expired.
        DeviceReleaseTooSoon: the last release is too recent.
    """
    async with ctx.transaction() as conn:
        token = await queries.lock_token(conn, token_id=token_id, user_id=user_id)
        now = ctx.now()
        lifecycle.require_open(token, now=now)
        lifecycle.require_release_due(token, now=now)
        await queries.delete_device_lease(conn, token_id=token_id)
        await queries.update_device_released(conn, token_id=token_id, now=now)
        await audit.record(
            conn,
            ctx=ctx,
            actor=actor,
            action="token.release_device",
            resource_type="access_token",
            resource_id=token_id,
        )
    await revocation.release_device(ctx, token_hash=token.token_hash)
    return now + lifecycle.DEVICE_RELEASE_INTERVAL


async def find_grant(ctx: Context, *, token_hash: bytes) -> TokenGrant | None:
    """The grant of the token with this hash; None unless it is usable now. One query.

    Raises:
        DatabaseUnavailable: nobody can know now.
    """
    async with ctx.connection() as conn:
        return await queries.find_grant_by_hash(conn, token_hash=token_hash, now=ctx.now())


async def find_grants(ctx: Context, *, token_hashes: Sequence[bytes]) -> dict[bytes, TokenGrant]:
    """As ``find_grant``, for many tokens in one query; the usable ones by their hash.

    Raises:
        DatabaseUnavailable: nobody can know now.
    """
    async with ctx.connection() as conn:
        grants = await queries.select_grants_by_hash(conn, token_hashes=token_hashes, now=ctx.now())
    return {grant.token_hash: grant for grant in grants}


async def find_token_hash(ctx: Context, *, token_id: UUID) -> bytes | None:
    """The hash of a token's present string, whoever owns it and whether it is usable or not.

    Raises:
        DatabaseUnavailable: nobody can know now.
    """
    async with ctx.connection() as conn:
        return await queries.find_token_hash(conn, token_id=token_id)


async def activate(ctx: Context, *, token_id: UUID, actor: Actor | None = None) -> TokenGrant:
    """Start the token's clock, or find it started: however many call this, there is one activation and one audit row.

    `actor` says from where; left out, the audit row names the token's owner.

    Raises:
        TokenRejected: the token has ended or expired, or its owner's account is closed.
    """
    async with ctx.transaction() as conn:
        now = ctx.now()
        grant = await queries.update_activated(conn, token_id=token_id, now=now)
        if grant is None:
            return await _find_activated(conn, token_id=token_id, ctx=ctx)
        await audit.record(
            conn,
            ctx=ctx,
            actor=actor or Actor(kind=ActorKind.USER, user_id=grant.user_id),
            action="token.activate",
            resource_type="access_token",
            resource_id=token_id,
            after={"activated_at": str(grant.activated_at), "expires_at": str(grant.expires_at)},
        )
        after_commit(conn, TOKENS_ACTIVATED.labels().inc)
    return grant


async def end_expired_tokens(ctx: Context) -> int:
    """Mark the tokens whose time is over as ended; the count. Idempotent, and safe beside others doing the same.

    They stopped being usable when they expired: this only keeps the index of open tokens small.
    """
    total = 0
    while True:
        async with ctx.transaction() as conn:
            ended = await queries.update_expired(conn, now=ctx.now(), limit=EXPIRY_BATCH)
            after_commit(conn, TOKENS_ENDED.labels("expired").inc, ended)
        total += ended
        if ended < EXPIRY_BATCH:
            return total


async def _find_activated(conn: Connection, *, token_id: UUID, ctx: Context) -> TokenGrant:
    grant = await queries.find_grant_by_id(conn, token_id=token_id, now=ctx.now())
    if grant is None or grant.activated_at is None:
        raise TokenRejected
    return grant
