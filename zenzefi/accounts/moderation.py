"""What superusers do with other people's accounts: look for them, ban them, and make or unmake superusers.

Nobody changes the state of their own account here, and whoever changes another's is locked as a superuser until that is
committed. So after any number of superusers demoted or banned each other at the same moment, the one whose change was
committed last is one still: the last superuser cannot be removed.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from zenzefi.accounts import logins, moderation_queries
from zenzefi.accounts.errors import OwnAccount
from zenzefi.accounts.models import User
from zenzefi.audit import service as audit
from zenzefi.audit.models import Actor
from zenzefi.context import Context
from zenzefi.errors import Forbidden, JsonObject, NotFound

# Greater than every UUID of version 7: the place before the first page.
_LAST_UUID: Final = UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagChanges:
    """What a superuser sets of another user; a flag that is None stays as it is."""

    is_active: bool | None = None
    is_superuser: bool | None = None


async def list_users(
    ctx: Context, *, search: str | None, is_active: bool | None, before: UUID | None, limit: int
) -> tuple[list[User], UUID | None]:
    """Users, the newest first, from those with an id below `before`; and the `before` of the next page, if any.

    `search` is how the e-mail address or the username begins, in any case.
    """
    if search is not None and not search.isascii():
        return [], None  # addresses and usernames are ASCII
    rows = limit + 1  # the one more tells whether anything follows
    async with ctx.connection() as conn:
        users = await moderation_queries.select_users(
            conn,
            prefix=search.strip().lower() if search else None,
            is_active=is_active,
            before=before or _LAST_UUID,
            limit=rows,
        )
    page = users[:limit]
    return page, page[-1].id if len(users) > limit else None


async def get_user(ctx: Context, *, reference: str) -> User:
    """A user by id, e-mail address or username.

    Raises:
        NotFound: there is none.
    """
    try:
        # A username may have the form of an id, namely of somebody else's: an id is nothing else.
        user_id = UUID(reference)
    except ValueError:
        user_id = None
    async with ctx.connection() as conn:
        if user_id is not None:
            user = await moderation_queries.find_user(conn, user_id=user_id)
        else:
            user = await moderation_queries.find_user_by_name(conn, name=reference.strip().lower())
    if user is None:
        raise NotFound(f"No user has the id, e-mail address or username {reference!r}.")
    return user


async def update_flags(ctx: Context, *, superuser_id: UUID, user_id: UUID, changes: FlagChanges, actor: Actor) -> User:
    """Ban or welcome back a user, make them a superuser or an ordinary user. A ban ends all their logins at once.

    Locks both users in the order of their ids. Idempotent: what is set already leaves no trace.

    Raises:
        OwnAccount: the superuser means themselves.
        Forbidden: the superuser has just been demoted or banned by another.
        NotFound: there is no such user.
    """
    if user_id == superuser_id:
        raise OwnAccount("Ask another superuser: nobody changes the state of their own account.")
    ended: list[UUID] = []
    async with ctx.transaction() as conn:
        users = await moderation_queries.lock_users(conn, user_ids={superuser_id, user_id})
        if not (users[superuser_id].is_active and users[superuser_id].is_superuser):
            raise Forbidden("Only a superuser may do this.")
        old = users.get(user_id)
        if old is None:
            raise NotFound("There is no such user.")
        is_active = old.is_active if changes.is_active is None else changes.is_active
        is_superuser = old.is_superuser if changes.is_superuser is None else changes.is_superuser
        if (is_active, is_superuser) == (old.is_active, old.is_superuser):
            return old
        now = ctx.now()
        new = await moderation_queries.update_flags(
            conn, user_id=user_id, is_active=is_active, is_superuser=is_superuser, now=now
        )
        if not is_active:
            ended = await moderation_queries.end_logins(conn, user_id=user_id, now=now)
        await audit.record(
            conn,
            ctx=ctx,
            actor=actor,
            action="user.update_flags",
            resource_type="user",
            resource_id=user_id,
            before=_flags(old),
            after={**_flags(new), "ended_logins": len(ended)},
        )
    logins.forget(ctx, login_ids=ended)
    return new


def _flags(user: User) -> JsonObject:
    return {"is_active": user.is_active, "is_superuser": user.is_superuser}
