"""Logins: opened by a password, continued by refresh tokens, ended by whoever has reason to.

A login is one family of refresh tokens: each is good for one use, which gives the next. A token that comes a second
time was copied, and nobody can tell the thief from the owner, so the whole login ends (RFC 9700, section 4.14.2). That
holds for two refreshes at the same moment as well: a grace of some seconds would be a grace for the thief. Clients
refresh one at a time.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from zenzefi.accounts import login_queries, queries, refresh_tokens
from zenzefi.accounts.errors import InvalidCredentials, InvalidRefreshToken
from zenzefi.accounts.identities import IdentityCache
from zenzefi.accounts.models import Credentials, TokenPair
from zenzefi.accounts.rules import normalise_email, normalise_password
from zenzefi.audit import service as audit
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.errors import Unavailable
from zenzefi.infra.business_instruments import LOGINS
from zenzefi.infra.db import Connection
from zenzefi.infra.jwt import Claims
from zenzefi.ratelimit import service as ratelimit
from zenzefi.ratelimit.ring import LimitClass
from zenzefi.web.identity import Identity

PURGE_BATCH = 1000  # rows of one transaction: some 50 ms of locks
PURGE_MAX_BATCHES = 200  # of one run; what is left waits for the next


async def log_in(ctx: Context, *, email: str, password: str, actor: Actor) -> TokenPair:
    """Check a password and open a login.

    An unknown address, a wrong password and a banned user are answered alike and after the same time.

    Raises:
        InvalidCredentials: no, and no word on why.
        RateLimitExceeded: too many failed for this account, from wherever.
    """
    email, password = normalise_email(email), normalise_password(password)
    subject = ratelimit.account_subject(email)
    # Charged before the check, so that guesses at the same moment are counted, too; taken back unless it was a guess.
    guess = await ratelimit.admit(ctx, LimitClass.AUTH, subject)
    try:
        pair = await _log_in(ctx, email=email, password=password, actor=actor)
    except InvalidCredentials:
        LOGINS.labels("refused").inc()
        raise
    except BaseException:
        await ratelimit.forgive(ctx, subject, guess)
        raise
    LOGINS.labels("accepted").inc()
    await ratelimit.forgive(ctx, subject, guess)
    return pair


async def _log_in(ctx: Context, *, email: str, password: str, actor: Actor) -> TokenPair:
    while True:
        credentials = await _check_password(ctx, email=email, password=password)
        async with ctx.transaction() as conn:
            # A password change or a ban that came in between is waited for: this login must not outlive it.
            if await queries.lock_credentials(conn, user_id=credentials.user_id) != credentials:
                continue
            pair = await _open_login(ctx, conn, user_id=credentials.user_id, actor=actor)
        if ctx.passwords.needs_rehash(credentials.password_hash):
            with suppress(Unavailable):  # the next login tries again
                await _rehash(ctx, credentials, password)
        return pair


async def refresh(ctx: Context, *, refresh_token: str, actor: Actor) -> TokenPair:
    """Spend a refresh token for a new pair. One that was spent before ends its login.

    Raises:
        InvalidRefreshToken: unknown, spent, expired, or its login has ended or its user is banned.
    """
    if not refresh_tokens.is_well_formed(refresh_token):
        raise InvalidRefreshToken("Sign in again.")
    token_hash = refresh_tokens.hash_token(refresh_token)
    async with ctx.transaction() as conn:
        pair = await _rotate(ctx, conn, token_hash=token_hash, actor=actor)
    # Raised only now: the end of a login whose token was spent twice must be committed.
    if pair is None:
        raise InvalidRefreshToken("It is unknown, expired, used already or signed out. Sign in again.")
    return pair


async def log_out(ctx: Context, *, refresh_token: str, actor: Actor) -> None:
    """End the login that the refresh token, spent or not, belongs to. Idempotent; an unknown token is no error."""
    if not refresh_tokens.is_well_formed(refresh_token):
        return
    async with ctx.transaction() as conn:
        token = await login_queries.lock_refresh_token(conn, token_hash=refresh_tokens.hash_token(refresh_token))
        if token is None:
            return
        await _end_login(ctx, conn, login_id=token.login_id, reason="logout", actor=actor)
    forget(ctx, login_ids=[token.login_id])


async def find_identity(ctx: Context, *, user_id: UUID, login_id: UUID) -> Identity | None:
    """Whom a login vouches for; None once it has ended or its user is banned, at most 1 s later in every process."""
    cache = ctx.local(IdentityCache)
    identity = cache.find(login_id)
    if identity is None:
        asked_at_s = cache.now_s()
        async with ctx.connection() as conn:
            found = await login_queries.find_open_login(conn, login_id=login_id)
        if found is None:
            return None
        identity = Identity(user_id=found[0], login_id=login_id, is_superuser=found[1])
        cache.remember(identity, known_since_s=asked_at_s)
    return identity if identity.user_id == user_id else None


def forget(ctx: Context, *, login_ids: Iterable[UUID]) -> None:
    """Let this process know at once that logins have ended; the others know within 1 s."""
    ctx.local(IdentityCache).forget(login_ids)


async def purge_expired_logins(ctx: Context) -> int:
    """Delete refresh tokens that have expired, and the logins that none is left of; the number of those logins.

    Bounded by PURGE_BATCH and PURGE_MAX_BATCHES; safe to run twice at the same time.
    """
    deleted = 0
    for _ in range(PURGE_MAX_BATCHES):
        async with ctx.transaction() as conn:
            login_ids = await login_queries.delete_expired_refresh_tokens(
                conn, expired_before=ctx.now(), limit=PURGE_BATCH
            )
            await login_queries.lock_logins(conn, login_ids=login_ids)
            deleted += await login_queries.delete_spent_logins(conn, login_ids=login_ids)
        if len(login_ids) < PURGE_BATCH:
            break
    return deleted


async def _check_password(ctx: Context, *, email: str, password: str) -> Credentials:
    async with ctx.connection() as conn:
        credentials = await queries.find_credentials(conn, email=email)
    # The hash of nobody's password is checked when there is no user, and a ban counts only after the check:
    # otherwise the time of the answer would tell which it was.
    matches = await ctx.passwords.verify(None if credentials is None else credentials.password_hash, password)
    if credentials is None or not matches or not credentials.is_active:
        raise InvalidCredentials("Check both and try again.")
    return credentials


async def _rehash(ctx: Context, credentials: Credentials, password: str) -> None:
    new_hash = await ctx.passwords.hash(password)
    async with ctx.transaction() as conn:
        await queries.replace_password_hash(
            conn, user_id=credentials.user_id, old_hash=credentials.password_hash, new_hash=new_hash
        )


async def _open_login(ctx: Context, conn: Connection, *, user_id: UUID, actor: Actor) -> TokenPair:
    login_id, now = ctx.new_id(), ctx.now()
    await login_queries.insert_login(
        conn, login_id=login_id, user_id=user_id, ip=actor.ip, user_agent=actor.user_agent, now=now
    )
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor.known_as(user_id),
        action="login.open",
        resource_type="login",
        resource_id=login_id,
    )
    return await _issue_pair(ctx, conn, user_id=user_id, login_id=login_id)


async def _issue_pair(ctx: Context, conn: Connection, *, user_id: UUID, login_id: UUID) -> TokenPair:
    token, now = refresh_tokens.mint(), ctx.now()
    await login_queries.insert_refresh_token(
        conn,
        token_hash=refresh_tokens.hash_token(token),
        login_id=login_id,
        now=now,
        expires_at=now + timedelta(days=ctx.settings.refresh_token_expire_days),
    )
    return TokenPair(
        access_token=ctx.jwt.sign(Claims(user_id=user_id, login_id=login_id), token_id=ctx.new_id(), now=now),
        expires_in_s=int(ctx.jwt.lifetime.total_seconds()),
        refresh_token=token,
    )


async def _rotate(ctx: Context, conn: Connection, *, token_hash: bytes, actor: Actor) -> TokenPair | None:
    token = await login_queries.lock_refresh_token(conn, token_hash=token_hash)
    if token is None:
        return None
    if token.used_at is not None:
        await _end_login(ctx, conn, login_id=token.login_id, reason="refresh_token_reused", actor=actor)
        return None
    now = ctx.now()
    if token.expires_at <= now:
        return None
    found = await login_queries.find_open_login(conn, login_id=token.login_id)
    if found is None:
        return None
    await ratelimit.admit(ctx, LimitClass.API, ratelimit.user_subject(found[0]))
    await login_queries.mark_refresh_token_used(conn, token_hash=token_hash, now=now)
    return await _issue_pair(ctx, conn, user_id=found[0], login_id=token.login_id)


async def _end_login(ctx: Context, conn: Connection, *, login_id: UUID, reason: str, actor: Actor) -> None:
    now = ctx.now()
    user_id = await login_queries.end_login(conn, login_id=login_id, now=now)
    if user_id is None:
        return  # it had ended before
    await audit.record(
        conn,
        ctx=ctx,
        actor=actor.known_as(user_id),
        action="login.end",
        resource_type="login",
        resource_id=login_id,
        after={"reason": reason},
    )
