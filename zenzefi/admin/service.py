"""Use cases of superusers."""

import ipaddress
from uuid import UUID

from zenzefi.access import service as access
from zenzefi.accounts import moderation
from zenzefi.accounts.models import User
from zenzefi.accounts.moderation import FlagChanges
from zenzefi.accounts.rules import normalise_email
from zenzefi.audit import service as audit
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.errors import NotFound
from zenzefi.ratelimit import service as ratelimit
from zenzefi.ratelimit.errors import UnknownLimitClass
from zenzefi.ratelimit.limiter import ClassLimiter
from zenzefi.ratelimit.ring import Charge, LimitClass


async def update_flags(ctx: Context, *, superuser_id: UUID, user_id: UUID, changes: FlagChanges, actor: Actor) -> User:
    """Ban or welcome back another user, make them a superuser or an ordinary user.

    A ban holds in every process within a second, for logins, tokens and open streams alike.

    Raises:
        OwnAccount, Forbidden, NotFound: see ``moderation.update_flags``.
    """
    user = await moderation.update_flags(ctx, superuser_id=superuser_id, user_id=user_id, changes=changes, actor=actor)
    # Told by what was asked for, not by what changed: a repeated request mends what a crash after the commit left.
    if changes.is_active is False:
        await access.suspend_tokens(ctx, user_id=user_id)
    elif changes.is_active is True:
        await access.resume_tokens(ctx, user_id=user_id)
    return user


async def look_at_limit(ctx: Context, *, limit_class: str, subject: str) -> tuple[ClassLimiter, Charge]:
    """What is used and left to a subject: an address or an account's e-mail (auth), a user (api), a token (proxy).

    Raises:
        UnknownLimitClass: there is no such class, or it is off.
        NotFound: the subject cannot be one of that class.
        RedisUnavailable: nobody can know now.
    """
    limiter, name = await _find(ctx, limit_class=limit_class, subject=subject)
    return limiter, await limiter.look(name)


async def reset_limit(ctx: Context, *, limit_class: str, subject: str, actor: Actor) -> None:
    """Forget what a subject has used.

    Raises:
        UnknownLimitClass, NotFound, RedisUnavailable: as for ``look_at_limit``.
    """
    limiter, name = await _find(ctx, limit_class=limit_class, subject=subject)
    used = limiter.policy.limit - (await limiter.look(name)).free
    async with ctx.transaction() as conn:
        await audit.record(
            conn,
            ctx=ctx,
            actor=actor,
            action="ratelimit.reset",
            resource_type="ratelimit",
            # The subject as Redis knows it: an account's e-mail address is personal, its hash is not.
            resource_id=f"{limit_class}/{name}",
            before={"used": used},
            after={"used": 0},
        )
        # Inside: a reset that fails leaves no row that says it was made.
        await limiter.reset(name)


async def _find(ctx: Context, *, limit_class: str, subject: str) -> tuple[ClassLimiter, str]:
    try:
        limiter = ratelimit.limiter_of(ctx).get(LimitClass(limit_class))
    except ValueError:
        limiter = None
    if limiter is None:
        raise UnknownLimitClass("The classes are auth, api and proxy; one that is off has no limits.")
    name = await _name_of(ctx, limiter.limit_class, subject)
    if name is None:
        raise NotFound("There is no such subject: auth takes an address or an e-mail, api a user id, proxy a token id.")
    return limiter, name


async def _name_of(ctx: Context, limit_class: LimitClass, subject: str) -> str | None:
    if limit_class is LimitClass.AUTH and "@" in subject:
        return ratelimit.account_subject(normalise_email(subject))
    try:
        if limit_class is LimitClass.AUTH:
            return ratelimit.address_subject(ipaddress.ip_address(subject))
        if limit_class is LimitClass.API:
            return ratelimit.user_subject(UUID(subject))
        token_hash = await access.find_token_hash(ctx, token_id=UUID(subject))
    except ValueError:
        return None
    return None if token_hash is None else ratelimit.token_subject(token_hash)
