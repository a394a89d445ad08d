"""Users: how an account is made, and what people change of their own."""

from uuid import UUID

from zenzefi.accounts import login_queries, logins, queries, referral_codes
from zenzefi.accounts.errors import EmailTaken, UnknownReferralCode, WrongCurrentPassword
from zenzefi.accounts.logins import find_identity, purge_expired_logins
from zenzefi.accounts.models import PasswordChange, User, UserChanges
from zenzefi.accounts.rules import account_problems, normalise_email, normalise_password, password_problems
from zenzefi.audit import service as audit
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.errors import Invalid, NotFound, Unauthenticated
from zenzefi.infra.business_instruments import REGISTRATIONS
from zenzefi.infra.db import Connection, after_commit
from zenzefi.mail import service as mail
from zenzefi.mail.models import MailKind
from zenzefi.mail.rendering import format_instant
from zenzefi.web.identity import Identity

__all__ = ["create_superuser", "find_identity", "get_user", "purge_expired_logins", "register", "update_user"]


async def register(
    ctx: Context,
    *,
    email: str,
    username: str,
    password: str,
    full_name: str | None = None,
    referral_code: str | None = None,
    actor: Actor,
) -> User:
    """Make an account.

    Raises:
        Invalid: the email address, the username or the password is not acceptable.
        EmailTaken, UsernameTaken: by another account.
        UnknownReferralCode: the code is nobody's.
    """
    email = normalise_email(email)
    password_hash = await _hash_for_new_account(ctx, email=email, username=username, password=password)
    async with ctx.transaction() as conn:
        referred_by = None if referral_code is None else await _find_referrer(conn, referral_code)
        return await _insert_user(
            ctx,
            conn,
            email=email,
            username=username,
            password_hash=password_hash,
            full_name=full_name,
            referred_by=referred_by,
            actor=actor,
        )


async def create_superuser(ctx: Context, *, email: str, username: str, password: str, if_missing: bool = False) -> User:
    """Make a superuser. With ``if_missing`` one that has the email address already is left alone and returned.

    Raises:
        Invalid: the email address, the username or the password is not acceptable.
        EmailTaken, UsernameTaken: by another account; with ``if_missing`` by one that is no superuser.
    """
    email = normalise_email(email)
    if if_missing and (user := await _find_superuser(ctx, email)) is not None:
        return user
    password_hash = await _hash_for_new_account(ctx, email=email, username=username, password=password)
    try:
        async with ctx.transaction() as conn:
            return await _insert_user(
                ctx,
                conn,
                email=email,
                username=username,
                password_hash=password_hash,
                is_superuser=True,
                actor=Actor.operator(),
            )
    except EmailTaken:
        # Another process may have made it just now.
        if if_missing and (user := await _find_superuser(ctx, email)) is not None:
            return user
        raise


async def get_user(ctx: Context, *, user_id: UUID) -> User:
    """A user by id.

    Raises:
        NotFound: there is none.
    """
    async with ctx.connection() as conn:
        user = await queries.find_user(conn, user_id=user_id)
    if user is None:
        raise NotFound
    return user


async def update_user(ctx: Context, *, identity: Identity, changes: UserChanges, actor: Actor) -> User:
    """Change what a user may of themselves. A new password ends all their logins but this one, at once.

    Raises:
        Invalid: the new password is not acceptable, or comes without the current one.
        WrongCurrentPassword: the current password is another one.
        Unauthenticated: the user was banned just now.
    """
    if changes.full_name is None and changes.password is None:
        return await get_user(ctx, user_id=identity.user_id)
    change = await _check_password_change(ctx, user_id=identity.user_id, changes=changes)
    ended: list[UUID] = []
    async with ctx.transaction() as conn:
        user = await queries.lock_active_user(conn, user_id=identity.user_id)
        if user is None:
            raise Unauthenticated("This login has ended. Sign in again.")
        if changes.full_name is not None:
            user = await _rename(ctx, conn, user=user, full_name=changes.full_name or None, actor=actor)
        if change is not None:
            user, ended = await _change_password(ctx, conn, identity=identity, change=change, actor=actor)
    logins.forget(ctx, login_ids=ended)
    return user


async def _hash_for_new_account(ctx: Context, *, email: str, username: str, password: str) -> str:
    problems = account_problems(email=email, username=username, password=password)
    if problems:
        raise Invalid(problems)
    return await ctx.passwords.hash(normalise_password(password))


async def _find_superuser(ctx: Context, email: str) -> User | None:
    async with ctx.connection() as conn:
        user = await queries.find_user_by_email(conn, email=email)
    return user if user is not None and user.is_superuser else None


async def _find_referrer(conn: Connection, referral_code: str) -> UUID:
    code = referral_codes.normalise(referral_code)
    referrer = None if code is None else await queries.find_referrer(conn, referral_code=code)
    if referrer is None:
        raise UnknownReferralCode("Check the link that you were given, or register without one.")
    return referrer


async def _insert_user(
    ctx: Context,
    conn: Connection,
    *,
    email: str,
    username: str,
    password_hash: str,
    full_name: str | None = None,
    is_superuser: bool = False,
    referred_by: UUID | None = None,
    actor: Actor,
) -> User:
    user, now = None, ctx.now()
    while user is None:  # a referral code that is taken is drawn again
        user = await queries.insert_user(
            conn,
            user_id=ctx.new_id(),
            email=email,
            username=username,
            password_hash=password_hash,
            full_name=full_name or None,
            is_superuser=is_superuser,
            referral_code=referral_codes.mint(),
            referred_by=referred_by,
            now=now,
        )
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor.known_as(user.id),
        action="user.register",
        resource_type="user",
        resource_id=user.id,
        after={
            "username": username,
            "is_superuser": is_superuser,
            "referred_by": None if referred_by is None else str(referred_by),
        },
    )
    after_commit(conn, REGISTRATIONS.labels().inc)
    return user


async def _rename(ctx: Context, conn: Connection, *, user: User, full_name: str | None, actor: Actor) -> User:
    now = ctx.now()
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor,
        action="user.update",
        resource_type="user",
        resource_id=user.id,
        before={"full_name": user.full_name},
        after={"full_name": full_name},
    )
    return await queries.update_full_name(conn, user_id=user.id, full_name=full_name, now=now)


async def _check_password_change(ctx: Context, *, user_id: UUID, changes: UserChanges) -> PasswordChange | None:
    """Check and hash before the transaction: that takes tens of milliseconds."""
    if changes.password is None:
        return None
    if changes.current_password is None:
        raise Invalid({"current_password": ["Is needed to change the password."]})
    async with ctx.connection() as conn:
        credentials = await queries.get_credentials(conn, user_id=user_id)
    if not await ctx.passwords.verify(credentials.password_hash, normalise_password(changes.current_password)):
        raise WrongCurrentPassword
    problems = password_problems(changes.password, email=credentials.email, username=credentials.username)
    if problems:
        raise Invalid({"password": problems})
    new_hash = await ctx.passwords.hash(normalise_password(changes.password))
    return PasswordChange(old_hash=credentials.password_hash, new_hash=new_hash)


async def _change_password(
    ctx: Context, conn: Connection, *, identity: Identity, change: PasswordChange, actor: Actor
) -> tuple[User, list[UUID]]:
    now = ctx.now()
    user = await queries.change_password_hash(
        conn, user_id=identity.user_id, old_hash=change.old_hash, new_hash=change.new_hash, now=now
    )
    if user is None:
        raise WrongCurrentPassword("The password was changed from elsewhere at this very moment.")
    ended = await login_queries.end_other_logins(
        conn, user_id=identity.user_id, kept_login_id=identity.login_id, now=now
    )
    entry_id = await audit.record(
        conn,
        ctx=ctx,
        actor=actor,
        action="user.change_password",
        resource_type="user",
        resource_id=identity.user_id,
        after={"ended_logins": len(ended)},
    )
    await mail.queue(
        conn,
        ctx=ctx,
        user_id=identity.user_id,
        kind=MailKind.PASSWORD_CHANGED,
        event_id=entry_id,
        details={"changed_at": format_instant(now)},
    )
    return user, ended
