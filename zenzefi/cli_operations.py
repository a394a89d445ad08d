"""The commands of operators: money, people and tokens of a running installation.

They use the same functions as the HTTP API, and what they change is audited with an operator as its actor.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TYPE_CHECKING, TypeVar

import click

from zenzefi.errors import JsonObject, JsonValue
from zenzefi.settings import Settings

if TYPE_CHECKING:
    from zenzefi.accounts.models import User
    from zenzefi.audit.models import ArchiveCheck, AuditReport
    from zenzefi.context import Context
    from zenzefi.wallet.models import LedgerEntry, LedgerReport

T = TypeVar("T")

_FROM_STDIN = "-"
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")
_USER = click.argument("user", metavar="USER")  # an id, an e-mail address or a username
_TOKEN = click.argument("token", metavar="TOKEN")  # an id, or - for a string on standard input


def _read_amount(_ctx: click.Context, _param: click.Parameter, value: str) -> Decimal:
    """Read an amount in ZNC as the API does: above 0, with at most two decimals."""
    from marshmallow import ValidationError

    from zenzefi.wallet.models import CENT, MAX_BALANCE
    from zenzefi.web.fields import Money

    try:
        amount: Decimal = Money(least=CENT, most=MAX_BALANCE).deserialize(value)
    except ValidationError as error:
        raise click.BadParameter(" ".join(map(str, error.messages))) from None
    return amount


def _require_text(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("say why")
    return value.strip()


@click.group()
def ledger() -> None:
    """The double-entry ledger."""


@ledger.command("verify")
@_AS_JSON
def ledger_verify(as_json: bool) -> None:
    """Check every rule of the ledger on one snapshot; exit code 1 when any does not hold."""
    from zenzefi.wallet import service
    from zenzefi.wallet.inspection import summary_of

    report = _run(service.verify)
    if as_json:
        _print_json(_report_json(report))
    else:
        for fault in report.faults:
            click.echo(f"{fault.rule.value}\t{fault.subject}\t{fault.detail}")
        click.echo(summary_of(report))
    raise SystemExit(0 if report.is_sound else 1)


def _read_anchor(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, bytes] | None:
    if value is None:
        return None
    seal_no, _, seal_hash = value.partition(":")
    try:
        return int(seal_no), bytes.fromhex(seal_hash)
    except ValueError:
        raise click.BadParameter("give the number and the hash of a seal, such as 17:5e88…") from None


@click.group()
def audit() -> None:
    """The log of who changed what."""


@audit.command("verify")
@click.option("--anchor", metavar="NO:HASH", callback=_read_anchor, help="A seal as it was noted before.")
@click.option("--archives", is_flag=True, help="Download the months that are archived, too, and compare each row.")
@_AS_JSON
def audit_verify(anchor: tuple[int, bytes] | None, archives: bool, as_json: bool) -> None:
    """Name each row that was altered, is missing or was inserted; exit code 1 when there is any.

    Note the head that it prints outside of the database: --anchor shows later that the chain was not replaced.
    """
    from zenzefi.audit import archive_verification, sealing

    async def check(ctx: "Context") -> "tuple[AuditReport, list[ArchiveCheck] | None]":
        report = await sealing.verify_audit_log(ctx, anchor=anchor)
        return report, await archive_verification.verify_archives(ctx) if archives else None

    report, checks = _run(check)
    if as_json:
        _print_json(_document_of(report, checks))
    else:
        _print_audit(report, checks)
    raise SystemExit(0 if report.is_sound and not any(check.fault for check in checks or ()) else 1)


def _document_of(report: "AuditReport", checks: "list[ArchiveCheck] | None") -> JsonObject:
    from zenzefi.audit import inspection

    faults: list[JsonValue] = [
        {"kind": fault.kind.value, "subject": fault.subject, "detail": fault.detail} for fault in report.faults
    ]
    document: JsonObject = {
        "sound": report.is_sound,
        "sealed_rows": report.sealed_rows,
        "waiting_rows": report.waiting_rows,
        "head": inspection.head_of(report),
        "faults": faults,
    }
    if checks is not None:
        document["archives"] = [
            {
                "month": f"{check.archive.month:%Y-%m}",
                "object_key": check.archive.object_key,
                "rows": check.archive.row_count,
                "fault": check.fault,
            }
            for check in checks
        ]
    return document


def _print_audit(report: "AuditReport", checks: "list[ArchiveCheck] | None") -> None:
    from zenzefi.audit import inspection

    for fault in report.faults:
        click.echo(f"{fault.kind.value}\t{fault.subject}\t{fault.detail}")
    for check in checks or ():
        verdict = "archive_sound" if check.fault is None else "archive_broken"
        detail = check.fault or f"{check.archive.row_count} rows are as they were sealed"
        click.echo(f"{verdict}\t{check.archive.month:%Y-%m}\t{check.archive.object_key}: {detail}")
    click.echo(inspection.summary_of(report))


@click.group()
def user() -> None:
    """People with accounts."""


@user.command("show")
@_USER
@_AS_JSON
def user_show(user: str, as_json: bool) -> None:
    """Show USER, who is named by id, e-mail address or username, with the balance."""
    from zenzefi.accounts import moderation
    from zenzefi.accounts.schemas import UserSchema
    from zenzefi.wallet import service as wallet

    async def show(ctx: "Context") -> tuple["User", Decimal]:
        found = await moderation.get_user(ctx, reference=user)
        return found, await wallet.get_balance(ctx, user_id=found.id)

    found, balance = _run(show)
    document: JsonObject = UserSchema().dump(found)
    _print({**document, "balance": f"{balance:.2f}"}, as_json=as_json)


@user.command("credit")
@_USER
@click.argument("amount", callback=_read_amount)
@click.option("--reason", required=True, callback=_require_text, help="Why; the wallet's owner sees it in the history.")
def user_credit(user: str, amount: Decimal, reason: str) -> None:
    """Put AMOUNT (ZNC) into the wallet of USER, as a transaction of its own."""
    from zenzefi.accounts import moderation
    from zenzefi.audit.models import Actor
    from zenzefi.wallet import adjustments

    async def credit(ctx: "Context") -> tuple["User", "LedgerEntry"]:
        found = await moderation.get_user(ctx, reference=user)
        async with ctx.transaction() as conn:
            return found, await adjustments.adjust(
                conn, ctx=ctx, user_id=found.id, amount=amount, reason=reason, actor=Actor.operator()
            )

    found, entry = _run(credit)
    click.echo(f"{found.username} has {entry.balance_after:.2f} ZNC now (transaction {entry.transaction_id}).")


@click.group()
def token() -> None:
    """Access tokens. A TOKEN is its id, or - to read its string from standard input: there it stays out of sight."""


@token.command("inspect")
@_TOKEN
@_AS_JSON
def token_inspect(token: str, as_json: bool) -> None:
    """Show TOKEN: whose it is, what was paid, and whether it runs."""
    from zenzefi.access import service
    from zenzefi.admin.schemas import admin_token_json

    async def inspect(ctx: "Context") -> JsonObject:
        return admin_token_json(await service.find_token(ctx, reference=_reference(token)), now=ctx.now())

    _print(_run(inspect), as_json=as_json)


@token.command("revoke")
@_TOKEN
@click.option("--refund", is_flag=True, help="Give the price back; refused for a token that was activated.")
def token_revoke(token: str, refund: bool) -> None:
    """End TOKEN; it dies within a second, its open streams included."""
    from zenzefi.access import service
    from zenzefi.audit.models import Actor

    async def revoke(ctx: "Context") -> Decimal:
        found = await service.find_token(ctx, reference=_reference(token))
        revocation = await service.revoke(ctx, actor=Actor.operator(), token_id=found.token_id, with_refund=refund)
        return revocation.refund_amount

    click.echo(f"The token has ended; {_run(revoke):.2f} ZNC went back to its owner.")


def _run(use_case: Callable[["Context"], Awaitable[T]]) -> T:
    """Run a use case in a context of its own."""
    from zenzefi.context import open_context

    async def run() -> T:
        async with open_context(Settings.from_env()) as ctx:
            return await use_case(ctx)

    return asyncio.run(run())


def _reference(token: str) -> str:
    """The id or the string of a token."""
    return sys.stdin.readline().strip() if token == _FROM_STDIN else token


def _report_json(report: "LedgerReport") -> JsonObject:
    totals = report.totals
    return {
        "sound": report.is_sound,
        "wallets": totals.wallets,
        "transactions": totals.transactions,
        "postings": totals.postings,
        "imbalance": f"{totals.imbalance:.2f}",
        "faults": [
            {"rule": fault.rule.value, "subject": str(fault.subject), "detail": fault.detail} for fault in report.faults
        ],
    }


def _print(document: JsonObject, *, as_json: bool) -> None:
    if as_json:
        _print_json(document)
        return
    width = max(map(len, document))
    for name, value in document.items():
        click.echo(f"{name:<{width}}  {'-' if value is None else value}")


def _print_json(document: JsonObject) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
