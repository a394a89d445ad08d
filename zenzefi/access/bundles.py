"""Use cases of bundles: several tokens in one purchase, each with the price that was paid for it."""

from dataclasses import asdict, replace
from uuid import UUID

from zenzefi.access import bundle_queries, queries, referral_bonuses, scopes
from zenzefi.access.bundle_models import Bundle, BundlePrice, BundlePurchase, BundleTerms
from zenzefi.access.bundle_pricing import price_bundle
from zenzefi.access.issuing import issue
from zenzefi.access.models import terms_of
from zenzefi.audit import service as audit
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.errors import JsonObject
from zenzefi.infra.business_instruments import TOKENS_SOLD
from zenzefi.infra.db import Connection, after_commit
from zenzefi.wallet import notices
from zenzefi.wallet import service as wallet
from zenzefi.wallet.models import SystemAccount, TransactionType

_BEFORE_ALL = UUID(int=0)


async def purchase(conn: Connection, *, ctx: Context, actor: Actor, user_id: UUID, bundle_id: UUID) -> BundlePurchase:
    """Buy a bundle: one debit of its price, its tokens and an audit row, all in the caller's transaction.

    Each token keeps its share of what was paid, so that refunds of all of them give back exactly that. Locks the
    wallet. The strings are in the result and nowhere else.

    Raises:
        BundleNotFound: there is none, or it is no longer offered.
        InsufficientFunds: the wallet holds less than the price.
        UnknownDuration: tokens of its duration are no longer sold.
    """
    bundle = await bundle_queries.get_bundle(conn, bundle_id=bundle_id)
    terms, price = bundle.terms, price_now(ctx, bundle.terms)
    transaction_id, now = ctx.new_id(), ctx.now()
    entry = await wallet.debit(
        conn,
        user_id=user_id,
        amount=price.total,
        transaction_type=TransactionType.PURCHASE,
        description=f"{terms.name}: {terms.token_count} tokens for {terms.duration_hours} h, scope {terms.scope}",
        destination=SystemAccount.REVENUE,
        transaction_id=transaction_id,
        now=now,
    )
    tokens = tuple(
        issue(ctx, user_id=user_id, duration_hours=terms.duration_hours, scope=terms.scope, price=paid, now=now)
        for paid in price.token_prices
    )
    await queries.insert_tokens(conn, tokens=[each.token for each in tokens], purchase_transaction_id=transaction_id)
    after: JsonObject = {
        "user_id": str(user_id),
        "cost": f"{price.total:.2f}",
        "transaction_id": str(transaction_id),
        "tokens": [{"id": str(each.token.token_id), **terms_of(each.token)} for each in tokens],
    }
    await audit.record(
        conn, ctx=ctx, actor=actor, action="bundle.purchase", resource_type="bundle", resource_id=bundle_id, after=after
    )
    after_commit(conn, TOKENS_SOLD.labels(terms.duration_hours).inc, len(tokens))
    await referral_bonuses.hold(
        conn, ctx=ctx, actor=actor, user_id=user_id, purchase_transaction_id=transaction_id, cost=price.total
    )
    await notices.tell_of_low_balance(conn, ctx=ctx, user_id=user_id, entry=entry)
    return BundlePurchase(bundle_name=terms.name, tokens=tokens, cost=price.total, new_balance=entry.balance_after)


async def list_bundles(ctx: Context, *, after: UUID | None, limit: int) -> tuple[list[Bundle], UUID | None]:
    """The bundles on offer, the oldest first, from those with an id above `after`; and the next page's `after`."""
    rows = limit + 1  # the one more tells whether anything follows
    async with ctx.connection() as conn:
        bundles = await bundle_queries.select_bundles(conn, after=after or _BEFORE_ALL, limit=rows)
    page = bundles[:limit]
    return page, page[-1].bundle_id if len(bundles) > limit else None


async def get_bundle(ctx: Context, *, bundle_id: UUID) -> Bundle:
    """A bundle on offer.

    Raises:
        BundleNotFound: there is none.
    """
    async with ctx.connection() as conn:
        return await bundle_queries.get_bundle(conn, bundle_id=bundle_id)


async def create_bundle(ctx: Context, *, terms: BundleTerms, actor: Actor) -> Bundle:
    """Offer a new bundle.

    Raises:
        UnknownDuration, UnknownScope: there are no such tokens.
        BundleNameTaken: by another bundle on offer.
    """
    _require_sellable(ctx, terms)
    bundle = Bundle(bundle_id=ctx.new_id(), terms=terms)
    async with ctx.transaction() as conn:
        await bundle_queries.insert_bundle(conn, bundle=bundle, now=ctx.now())
        await audit.record(
            conn,
            ctx=ctx,
            actor=actor,
            action="bundle.create",
            resource_type="bundle",
            resource_id=bundle.bundle_id,
            after=_terms_json(terms),
        )
    return bundle


async def change_bundle(ctx: Context, *, bundle_id: UUID, changes: JsonObject, actor: Actor) -> Bundle:
    """Give a bundle other terms; `changes` names fields of BundleTerms. Tokens that were sold stay as they are.

    Raises:
        BundleNotFound: there is none.
        UnknownDuration, UnknownScope, BundleNameTaken: as for ``create_bundle``.
    """
    async with ctx.transaction() as conn:
        old = await bundle_queries.lock_bundle(conn, bundle_id=bundle_id)
        new = replace(old, terms=replace(old.terms, **changes))  # type: ignore[arg-type]  # the schema saw to the types
        if new == old:
            return old
        _require_sellable(ctx, new.terms)
        await bundle_queries.update_bundle(conn, bundle=new, now=ctx.now())
        await audit.record(
            conn,
            ctx=ctx,
            actor=actor,
            action="bundle.change",
            resource_type="bundle",
            resource_id=bundle_id,
            before=_terms_json(old.terms),
            after=_terms_json(new.terms),
        )
    return new


async def delete_bundle(ctx: Context, *, bundle_id: UUID, actor: Actor) -> None:
    """Take a bundle off the offer. Its row and the tokens that were sold stay.

    Raises:
        BundleNotFound: there is none, or it was deleted before.
    """
    async with ctx.transaction() as conn:
        bundle = await bundle_queries.lock_bundle(conn, bundle_id=bundle_id)
        await bundle_queries.update_deleted(conn, bundle_id=bundle_id, now=ctx.now())
        await audit.record(
            conn,
            ctx=ctx,
            actor=actor,
            action="bundle.delete",
            resource_type="bundle",
            resource_id=bundle_id,
            before=_terms_json(bundle.terms),
        )


def price_now(ctx: Context, terms: BundleTerms) -> BundlePrice:
    """What the bundle costs now.

    Raises:
        UnknownDuration: tokens of its duration are no longer sold.
    """
    return price_bundle(terms, prices=ctx.settings.token_prices)


def _require_sellable(ctx: Context, terms: BundleTerms) -> None:
    scopes.require_known(terms.scope)
    price_now(ctx, terms)


def _terms_json(terms: BundleTerms) -> JsonObject:
    return {**asdict(terms), "discount_percent": str(terms.discount_percent)}
