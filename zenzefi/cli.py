"""The command line: reads arguments, calls one function of the project, and words what came of it.

Exit codes: 0 done, 1 failed, 2 wrong usage, and those that some errors of backups have. Results go to
standard output, everything else to standard error. What each command needs is imported by it alone, so that the others
start quickly and none needs what only another one uses.
"""

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

import click

import zenzefi
from zenzefi import cli_backups, cli_mail, cli_operations
from zenzefi.cli_tables import print_table
from zenzefi.errors import Invalid, ZenzefiError
from zenzefi.jobs import Queue
from zenzefi.settings import Settings, SettingsError

_WARNED = 3  # by `doctor --production`: nothing fails, and something is worth a look


def _foreseen_errors() -> tuple[type[Exception], ...]:
    """Return the errors that a person can mend by their message; only called once one of any kind was raised."""
    from zenzefi.devstack.errors import DevStackError
    from zenzefi.infra.migrations import MigrationError
    from zenzefi.server.errors import ServerError

    return (SettingsError, ZenzefiError, MigrationError, DevStackError, ServerError, OSError)


class _Commands(click.Group):
    """A group whose commands end in one line of explanation instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read our output has seen enough; click knows how to end
        except _foreseen_errors() as error:
            click.ClickException(_explain(error)).show()
            raise SystemExit(getattr(error, "exit_code", 1)) from error


def _explain(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, Invalid):
        messages = cast(dict[str, list[str]], error.extra["errors"])
        text = "; ".join(f"{name}: {' '.join(of_it)}" for name, of_it in messages.items())
    return " ".join(text.split())


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(zenzefi.__version__, prog_name="zenzefi")
def main() -> None:
    """A prepaid, time-boxed HTTP access gateway. Its settings are environment variables; see README.md."""


for _group in (
    cli_backups.backup,
    cli_operations.ledger,
    cli_operations.audit,
    cli_operations.user,
    cli_operations.token,
    cli_mail.mail,
):
    main.add_command(_group)


@main.group()
def dev() -> None:
    """Development on this machine."""


@dev.command("up")
def dev_up() -> None:
    """Run everything in the foreground: PostgreSQL, Valkey, S3, web processes, workers and a demo upstream."""
    from zenzefi.devstack import up  # its servers are in the development requirements

    raise SystemExit(up.dev_up())


@main.command()
@click.option("--processes", type=click.IntRange(1, 256), help="Web processes; PROCESSES or one per core if not given.")
def serve(processes: int | None) -> None:
    """Serve HTTP in the foreground. SIGTERM drains and ends; SIGHUP replaces the processes one by one."""
    from zenzefi.server import supervisor

    settings = Settings.from_env()
    raise SystemExit(supervisor.serve(settings, processes or settings.processes))


@main.command()
@click.option(
    "--queue",
    type=click.Choice([queue.value for queue in Queue]),
    default=Queue.DEFAULT.value,
    show_default=True,
    help="Whose jobs it runs; an installation needs a worker of each.",
)
def worker(queue: str) -> None:
    """Run one background worker in the foreground, until SIGTERM."""
    # Nothing in zenzefi imports workers: they stand above it. This process becomes `python -m workers`, so it keeps its
    # pid, its signals and the death of its parent. The path makes a checkout work from any directory.
    root = str(Path(zenzefi.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    arguments = [sys.executable, "-m", "workers", "--queue", queue]
    os.execve(sys.executable, arguments, {**os.environ, "PYTHONPATH": path})  # noqa: S606


@main.group()
def migrate() -> None:
    """The database's schema. Uses POSTGRES_OWNER_USER where it is set."""


@migrate.command("up")
def migrate_up() -> None:
    """Apply what is pending. Safe to run at any time, and many times at once."""
    from zenzefi.infra import migrations

    settings = Settings.from_env()
    applied = migrations.migrate_up(settings)
    for migration_id in applied:
        click.echo(f"applied {migration_id}")
    if not applied:
        click.echo("The schema is up to date.")
    if migrations.may_rewrite_history(settings):
        click.echo(
            f"Warning: {settings.postgres_user} may alter rows of the ledger and the audit log. Let the application "
            "log in as a role that owns nothing (POSTGRES_USER) and the migrations as the owner (POSTGRES_OWNER_USER).",
            err=True,
        )


@migrate.command("down")
@click.confirmation_option(prompt="This drops what the newest migration made, data included. Go on?")
def migrate_down() -> None:
    """Roll back the newest migration, and lose its data."""
    from zenzefi.infra import migrations

    migration_id = migrations.migrate_down(Settings.from_env())
    click.echo(f"rolled back {migration_id}" if migration_id else "No migration is applied.")


@migrate.command("status")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def migrate_status(as_json: bool) -> None:
    """List the migrations: applied, pending, edited since, or unknown to this version."""
    from zenzefi.infra import migrations

    status = migrations.migration_status(Settings.from_env())
    times = [each.applied_at.isoformat(timespec="seconds") if each.applied_at else None for each in status]
    if as_json:
        documents = [
            {"id": each.id, "state": each.state, "applied_at": at} for each, at in zip(status, times, strict=True)
        ]
        click.echo(json.dumps({"migrations": documents}, indent=2))
    else:
        rows = [(each.state, each.id, at or "") for each, at in zip(status, times, strict=True)]
        print_table(("state", "migration", "applied at"), rows)


@migrate.command("check")
def migrate_check() -> None:
    """Fail unless every migration is applied and none was edited since."""
    from zenzefi.infra import migrations

    migrations.check(Settings.from_env())
    click.echo("The schema is up to date.")


@main.command("create-superuser")
@click.option("--email", required=True)
@click.option("--username", required=True)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input; else you are asked.")
@click.option("--if-missing", is_flag=True, help="Succeed when this superuser exists already, and leave it as it is.")
def create_superuser(email: str, username: str, password_stdin: bool, if_missing: bool) -> None:
    """Make an account that may do everything."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        raise click.UsageError("Standard input is no terminal: give --password-stdin and write the password to it.")
    asyncio.run(_create_superuser(email=email, username=username, password=password, if_missing=if_missing))
    click.echo(f"The superuser {email} is ready.")


async def _create_superuser(*, email: str, username: str, password: str, if_missing: bool) -> None:
    from zenzefi.accounts import service
    from zenzefi.context import open_context

    async with open_context(Settings.from_env()) as ctx:
        await service.create_superuser(ctx, email=email, username=username, password=password, if_missing=if_missing)


@main.group()
def openapi() -> None:
    """The description of the HTTP API."""


@openapi.command("export")
@click.option("--output", type=click.File("w", "utf-8", atomic=True), default="-", help="A file; else standard output.")
def openapi_export(output: IO[str]) -> None:
    """Write the OpenAPI 3.1 document as JSON. Needs no settings and no server."""
    from aiohttp import web

    from zenzefi.app import ROUTES
    from zenzefi.web.openapi import build_openapi

    app = web.Application()
    app.add_routes(ROUTES)
    output.write(json.dumps(build_openapi(app), indent=2, ensure_ascii=False) + "\n")


@main.command()
@click.option("--production", is_flag=True, help="Hold everything to the rules of production.")
@click.option("--before-start", is_flag=True, help="Leave out what only a running service can show.")
@click.option(
    "--role",
    type=click.Choice(["web", "worker", "worker-heavy"]),
    help="Leave out what is another one's business, where each has only the settings that it needs.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(production: bool, before_start: bool, role: str | None, as_json: bool) -> None:
    """Look at every dependency: ok, warn or fail, with the fix.

    Exit code 1 when any of them fails; with --production 3 when nothing fails and something is to be warned of.
    """
    from zenzefi.doctor import Role, Verdict, examine, worst_of

    own = None if role is None else Role(role)
    findings = asyncio.run(examine(production=production, before_start=before_start, role=own))
    worst = worst_of(findings)
    if as_json:
        checks = [asdict(finding) for finding in findings]
        document = {"passed": worst is not Verdict.FAIL, "worst": worst, "checks": checks}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        rows = [(each.verdict, each.name, each.detail, each.fix) for each in findings]
        print_table(("", "check", "found", "fix"), rows)
    if worst is Verdict.FAIL:
        raise SystemExit(1)
    raise SystemExit(_WARNED if production and worst is Verdict.WARN else 0)
