"""The commands for backups. Exit codes of their own: 10 no repository, 11 another run has the lock, 12 wrong key."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zenzefi.settings import Settings
from zenzefi.upkeep_settings import BackupSettings, UpkeepReader

if TYPE_CHECKING:
    from zenzefi.backups.models import Manifest, Progress, Tell
    from zenzefi.backups.pruning import Pruned
    from zenzefi.backups.restoring import Restored
    from zenzefi.context import Context

T = TypeVar("T")


@click.group()
def backup() -> None:
    """Backups of the database in S3: encrypted, verified, and deleted by rule."""


@backup.command("now")
def backup_now() -> None:
    """Make a backup, and its copy if there is a second destination; its name goes to standard output."""
    from zenzefi.backups.service import back_up

    async def make(ctx: "Context") -> "Manifest":
        with _showing_progress() as tell:
            return await back_up(ctx, progress=tell)

    click.echo(_run(make).id)


@backup.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def backup_list(as_json: bool) -> None:
    """List the backups, the newest first. Needs no database."""
    from zenzefi.backups.listing import list_backups
    from zenzefi.cli_tables import print_table

    documents = asyncio.run(list_backups(_settings()))
    if as_json:
        click.echo(json.dumps({"backups": documents}, indent=2, ensure_ascii=False))
        return
    columns = ("state", "id", "stored_bytes", "rows", "migration_head", "reason")
    rows = [["" if one[name] is None else str(one[name]) for name in columns] for one in documents]
    print_table([name.replace("_", " ") for name in columns], rows, whole="id")


@backup.command("verify")
@click.argument("backup_id", metavar="[ID]", required=False)
def backup_verify(backup_id: str | None) -> None:
    """Restore backup ID, or the newest that was not tried yet, beside the database, compare all of it, and mark it.

    Needs BACKUP_IDENTITY, and a login that may make databases. Exit code 1 when it is not what was backed up.
    """
    from zenzefi.backups.verification import verify

    async def check(ctx: "Context") -> "Manifest":
        with _showing_progress() as tell:
            return await verify(ctx, backup_id=backup_id, progress=tell)

    click.echo(f"{_run(check).id} is what was backed up.")


@backup.command("restore")
@click.argument("backup_id", metavar="[ID]", required=False)
@click.option("--swap-in", "name", metavar="DATABASE", help="Restore nothing; swap in what was restored or replaced.")
@click.option("--yes", is_flag=True, help="Put it in the live database's place.")
def backup_restore(backup_id: str | None, name: str | None, yes: bool) -> None:
    """Restore backup ID, or the newest verified one, into a new database and compare all of it.

    With --yes it takes the live database's place, which is kept under another name. Needs no live database.
    """
    from zenzefi.backups.restoring import restore, swap_in

    if name is not None and (backup_id is not None or not yes):
        raise click.UsageError("--swap-in takes no ID, and replaces the live database: add --yes.")
    settings = _settings()

    async def work() -> "Restored":
        async with _cancelled_by_sigterm():
            if name is not None:
                return await swap_in(settings, name=name)
            with _showing_progress() as tell:
                return await restore(settings, backup_id=backup_id, swap=yes, progress=tell)

    _print_restored(_finish(work()))


def _print_restored(restored: "Restored") -> None:
    click.echo(restored.database)
    if not restored.is_live:
        click.echo(
            f"It is equal to the backup. To use it: zenzefi backup restore --swap-in {restored.database} --yes",
            err=True,
        )
    elif restored.replaced is not None:
        click.echo(f"To undo it: zenzefi backup restore --swap-in {restored.replaced} --yes", err=True)


@backup.command("databases")
@click.option("--drop", "name", metavar="DATABASE", help="Drop this one of them, for good.")
@click.option("--yes", is_flag=True, help="Yes, drop it.")
def backup_databases(name: str | None, yes: bool) -> None:
    """List the databases that restores left beside the live one: restored, replaced, or of a run that was killed."""
    from zenzefi.backups.leftovers import drop_leftover, list_leftovers
    from zenzefi.cli_tables import print_table

    if yes and name is None:
        raise click.UsageError("--yes goes with --drop, which names the database.")
    if name is not None and not yes:
        raise click.UsageError("--drop drops a database for good: add --yes.")
    if name is not None:
        asyncio.run(drop_leftover(_settings(), name=name))
        return
    leftovers = asyncio.run(list_leftovers(_settings()))
    rows = [[leftover.kind.value, leftover.name, str(leftover.size_bytes)] for leftover in leftovers]
    print_table(["kind", "name", "bytes"], rows, whole="name")


@backup.command("prune")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
def backup_prune(dry_run: bool) -> None:
    """Delete what BACKUP_KEEP_… lets go, and what killed runs left; exit code 1 when something needs a look."""
    from zenzefi.backups.pruning import prune

    report = _run(lambda ctx: prune(ctx, dry_run=dry_run))
    for pruned in report.destinations:
        _print_pruned(pruned, verb="would be deleted" if dry_run else "deleted")
    for problem in report.problems:
        click.echo(problem, err=True)
    raise SystemExit(1 if report.problems else 0)


def _print_pruned(pruned: "Pruned", *, verb: str) -> None:
    for name in pruned.deleted:
        click.echo(f"{verb}\t{name}\t{pruned.address}")
    for name in pruned.orphans:
        click.echo(f"{verb}\t{name} (data without a manifest)\t{pruned.address}")
    for name, reason in pruned.kept.items():
        click.echo(f"kept\t{name}\t{reason}")


@backup.command("key")
@click.option("--new", is_flag=True, help="Make a key pair even where BACKUP_RECIPIENTS is set.")
def backup_key(new: bool) -> None:
    """Show the keys that backups are encrypted for; where there is none, make a pair. Needs no server.

    A new pair goes to standard output in the form of age-keygen, secret key included: write it to a file, keep that off
    this machine, and put the public key into BACKUP_RECIPIENTS.
    """
    from zenzefi.backups.encryption import key_id, make_identity

    settings = UpkeepReader(os.environ).backup(owner_user="", owner_password="")
    if settings.recipients and not new:
        for recipient in settings.recipients:
            click.echo(f"{key_id(recipient)}\t{recipient}{_note_on(recipient, settings)}")
        return
    identity, recipient = make_identity()
    click.echo(f"# created: {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n# public key: {recipient}\n{identity}")
    click.echo(f"Who loses the secret key loses the backups. Set BACKUP_RECIPIENTS={recipient}", err=True)


def _note_on(recipient: str, settings: BackupSettings) -> str:
    from zenzefi.backups.encryption import recipient_of

    is_ours = settings.identity and recipient_of(settings.identity) == recipient
    return "\tBACKUP_IDENTITY opens it" if is_ours else ""


def _settings() -> Settings:
    """Read the settings; from here on what the functions log goes to standard error, from warnings up."""
    from zenzefi.infra.logging import configure_logging

    settings = Settings.from_env()
    configure_logging("warning")
    return settings


def _run(use_case: Callable[["Context"], Awaitable[T]]) -> T:
    """Run a use case in a context of its own. SIGTERM ends it as Ctrl-C does: uploads are aborted, children end."""
    from zenzefi.context import open_context

    settings = _settings()

    async def run() -> T:
        async with _cancelled_by_sigterm(), open_context(settings) as ctx:
            return await use_case(ctx)

    return _finish(run())


def _finish(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except asyncio.CancelledError:
        raise click.ClickException("It was told to end, and published nothing more.") from None


@asynccontextmanager
async def _cancelled_by_sigterm() -> AsyncIterator[None]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


@contextmanager
def _showing_progress() -> "Iterator[Tell | None]":
    """Show how far a run is on a terminal, and nothing elsewhere."""
    from rich.console import Console

    from zenzefi.cli_progress import open_bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with open_bars(console) as bars:
        phases = {}

        def tell(progress: "Progress") -> None:
            if progress.phase not in phases:
                phases[progress.phase] = bars.add_task(progress.phase, total=None)
            bars.update(phases[progress.phase], completed=progress.done_bytes, total=progress.estimated_bytes)

        yield tell
