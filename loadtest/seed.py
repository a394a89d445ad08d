"""`python -m loadtest.seed`: makes funded, signed-in people with a token each, without going through the sign-in limit.

It uses the product's own services in a process of its own, with the product's variables in the environment: accounts,
adjustments, purchases and logins are as real as any, and the audit log says who made them. Three things differ: the
limit of sign-ins is off here; all share one password, which is hashed once (30 ms of a core each otherwise); and their
JWTs are good for a day, so that none runs out in the middle of a test. An installation in production is refused.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import click
import uvloop

from loadtest.people import Person, dump_people
from loadtest.stack import NothingToLoad, installation
from zenzefi.access import service as access
from zenzefi.accounts import logins
from zenzefi.accounts import service as accounts
from zenzefi.audit.models import Actor
from zenzefi.context import Context, open_context
from zenzefi.errors import ZenzefiError
from zenzefi.infra.logging import configure_logging
from zenzefi.infra.passwords import PasswordHasher
from zenzefi.settings import Settings, SettingsError
from zenzefi.wallet import adjustments

DEFAULT_COUNT = 1000
DEFAULT_FUNDS = Decimal("100000.00")  # ZNC: a day of purchases, one a second
_HOURS = 24
_AT_ONCE = 8
_JWT_MINUTES = 1440


class ProductionRefused(Exception):
    """The environment is a production installation's, which must not get people out of nothing."""


class OnePassword(PasswordHasher):
    """Hashes one password once, and knows it again without the work."""

    def __init__(self, password: str) -> None:
        """Take the password."""
        super().__init__()
        self._password, self._encoded = password, self._argon2.hash(password)

    async def hash(self, password: str) -> str:
        """The one hash."""
        return self._encoded if password == self._password else await super().hash(password)

    async def verify(self, encoded: str | None, password: str) -> bool:
        """As ever, but for the one hash."""
        if encoded == self._encoded:
            return password == self._password
        return await super().verify(encoded, password)


@click.command()
@click.option("--count", type=click.IntRange(1), default=DEFAULT_COUNT, show_default=True, help="How many people.")
@click.option("--funds", type=Decimal, default=DEFAULT_FUNDS, show_default=True, help="What each wallet gets, in ZNC.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where they go, as JSON lines with their secrets; standard output by default.",
)
def main(count: int, funds: Decimal, output: Path | None) -> None:
    """Make people for load tests in the installation of this environment, or in the stack of `make run`."""
    configure_logging("error")
    try:
        settings = Settings.from_env(installation(os.environ))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            people = runner.run(seed(settings, count=count, funds=funds))
    except (NothingToLoad, ProductionRefused, SettingsError, ZenzefiError) as error:
        raise click.ClickException(str(error) or type(error).__name__) from error
    if output is None:
        sys.stdout.write(dump_people(people))
        return
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  a descriptor has no path
        file.write(dump_people(people))


async def seed(settings: Settings, *, count: int, funds: Decimal) -> list[Person]:
    """Make `count` people with `funds` (ZNC) each, less the price of a token.

    Raises:
        ProductionRefused: ENVIRONMENT is not development.
        DatabaseUnavailable: PostgreSQL cannot be reached.
    """
    run, password = secrets.token_hex(4), secrets.token_urlsafe(16)
    people: list[Person] = []
    async with _open(settings, password) as ctx:
        numbers = iter(range(count))

        async def work() -> None:
            for number in numbers:  # shared: whoever is free takes the next
                name = f"load-{run}-{number}"
                people.append(await _make(ctx, name=name, password=password, funds=funds))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(_AT_ONCE, count)):
                tasks.create_task(work())
    return people


async def seed_superuser(settings: Settings) -> dict[str, str]:
    """Make a superuser, signed in; the headers of their requests. Raises what ``seed`` does."""
    name, password = f"load-{secrets.token_hex(6)}", secrets.token_urlsafe(16)
    async with _open(settings, password) as ctx:
        email = f"{name}@example.com"
        await accounts.create_superuser(ctx, email=email, username=name, password=password)
        pair = await logins.log_in(ctx, email=email, password=password, actor=Actor.operator())
    return {"Authorization": f"Bearer {pair.access_token}"}


@asynccontextmanager
async def _open(settings: Settings, password: str) -> AsyncIterator[Context]:
    if not settings.is_development:
        raise ProductionRefused(
            "ENVIRONMENT is production: no money is made there out of nothing. Load an installation for tests."
        )
    relaxed = replace(settings, rate_limit_auth=None, access_token_expire_minutes=_JWT_MINUTES)
    async with open_context(relaxed) as ctx:
        ctx.passwords.close()
        ctx.passwords = OnePassword(password)
        try:
            yield ctx
        finally:
            ctx.passwords.close()


async def _make(ctx: Context, *, name: str, password: str, funds: Decimal) -> Person:
    email, actor = f"{name}@example.com", Actor.operator()
    user = await accounts.register(ctx, email=email, username=name, password=password, actor=actor)
    async with ctx.transaction() as conn:
        await adjustments.adjust(conn, ctx=ctx, user_id=user.id, amount=funds, reason="Load test", actor=actor)
    async with ctx.transaction() as conn:
        issued = await access.purchase(conn, ctx=ctx, actor=actor, user_id=user.id, duration_hours=_HOURS, scope="full")
    pair = await logins.log_in(ctx, email=email, password=password, actor=actor)
    return Person(
        user_id=str(user.id),
        email=email,
        password=password,
        jwt=pair.access_token,
        token=issued.token_string,
        device=f"device-{name}",
    )


if __name__ == "__main__":
    main()
