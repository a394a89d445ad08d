"""Deleting what need not be kept any longer, at both destinations: manifest first, then data, then what others left."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import structlog

from zenzefi.backups.errors import BackupDamaged, BackupNotFound
from zenzefi.backups.findings import note
from zenzefi.backups.locks import Run, exclusive_run
from zenzefi.backups.models import Verification, VerificationState
from zenzefi.backups.repository import STALE_AFTER, Repository, open_repository
from zenzefi.backups.retention import Entry, Policy, decide
from zenzefi.context import Context
from zenzefi.infra.storage import Storage

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Pruned:
    """What came of one destination; of a dry run: what would."""

    address: str
    deleted: list[str] = field(default_factory=list)
    kept: Mapping[str, str] = field(default_factory=dict)
    """Why each of the others stays."""
    frozen: str | None = None
    refused: dict[str, str] = field(default_factory=dict)
    """What the store did not let go, and what it said: Object Lock, or keys that may not delete."""
    unreadable: list[str] = field(default_factory=list)
    """Their manifests cannot be read. They stay."""
    orphans: list[str] = field(default_factory=list)
    """Data that no manifest names, and that was deleted."""
    uploads: int = 0
    """Uploads that nobody finished, and that were aborted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The first destination, and the second one if there is one."""

    destinations: tuple[Pruned, ...]

    @property
    def summary(self) -> str:
        """All of it in one line."""
        return "; ".join(
            f"{one.address}: {len(one.deleted)} deleted, {len(one.kept)} kept, {len(one.refused)} refused"
            + (f", frozen: {one.frozen}" if one.frozen else "")
            for one in self.destinations
        )

    @property
    def problems(self) -> list[str]:
        """What somebody must look at, a line each."""
        lines: list[str] = []
        for one in self.destinations:
            if one.frozen:
                lines.append(f"{one.address}: nothing was pruned, for {one.frozen}.")
            lines += [f"{one.address}: {name} was not deleted: {why}" for name, why in one.refused.items()]
            lines += [f"{one.address}: the manifest of {name} cannot be read; it stays." for name in one.unreadable]
        return lines


async def prune(ctx: Context, *, dry_run: bool = False, stale_after: timedelta = STALE_AFTER) -> Report:
    """Delete what `retention.decide` lets go, then data without a manifest and unfinished uploads of some age.

    A dry run deletes nothing and takes no lock. What a killed run leaves without a manifest, the next one deletes.

    Raises:
        NoRepository: there is no bucket.
        Locked: another run has the lock.
        Superseded: a later run began meanwhile; nothing more was deleted.
        StorageError, DatabaseUnavailable: what was deleted until then was pruned in order.
    """
    settings = ctx.settings.backup
    async with open_repository(ctx.storage, settings) as repository:
        if dry_run:
            return await _prune_all(ctx, repository, run=None, stale_after=stale_after)
        async with exclusive_run(ctx) as run:
            return await _prune_all(ctx, repository, run=run, stale_after=stale_after)


async def prune_and_log(ctx: Context) -> str:
    """Prune where nobody reads the report: its problems become errors in the log, and one line comes back."""
    report = await prune(ctx)
    for problem in report.problems:
        log.error("backup_pruning_problem", problem=problem)
    return report.summary


async def _prune_all(ctx: Context, repository: Repository, *, run: Run | None, stale_after: timedelta) -> Report:
    one = partial(_prune_one, ctx, run=run, stale_after=stale_after)
    # Verification marks the first destination only; its marks are read before any of them goes.
    marks: dict[str, Verification] = {}
    destinations = [await one(repository, marks=marks)]
    if run is not None:
        await note(ctx, repository)
    settings = ctx.settings.backup
    if settings.copy is not None:
        async with open_repository(Storage(settings.copy), settings) as copies:
            destinations.append(await one(copies, marks=marks))
    return Report(destinations=tuple(destinations))


async def _prune_one(
    ctx: Context, repository: Repository, *, marks: dict[str, Verification], run: Run | None, stale_after: timedelta
) -> Pruned:
    pruned = Pruned(address=repository.address)
    entries = await _read_entries(repository, pruned, marks=marks, run=run)
    verdict = decide(entries, policy=Policy.of(repository.settings), now=ctx.now())
    pruned.kept, pruned.frozen = verdict.keep, verdict.frozen
    for backup_id in verdict.prune:
        if run is None:
            pruned.deleted.append(backup_id)
            continue
        async with run.publishing(), _refusals(pruned, backup_id, then=pruned.deleted.append):
            await repository.delete_manifest(backup_id)
            await repository.delete_data(backup_id)
    if run is not None:
        await _sweep(repository, pruned, run=run, stale_after=stale_after)
    log.info(
        "backups_pruned" if run else "backups_would_be_pruned",
        address=pruned.address,
        deleted=pruned.deleted,
        kept=len(pruned.kept),
        orphans=pruned.orphans,
        uploads=pruned.uploads,
    )
    return pruned


async def _read_entries(
    repository: Repository, pruned: Pruned, *, marks: dict[str, Verification], run: Run | None
) -> list[Entry]:
    """Read what the rule looks at, and leave in `marks` what is known of verifications, of this destination, too.

    A copy gets its original's mark, for it was read back with the same SHA-256, and may outlive the original.
    """
    entries: list[Entry] = []
    for backup_id in await repository.ids():
        try:
            manifest = await repository.get(backup_id)
        except BackupNotFound:
            continue
        except BackupDamaged:
            pruned.unreadable.append(backup_id)
            continue
        mark = marks.setdefault(backup_id, manifest.verification)
        if run is not None and mark.state is not manifest.verification.state:
            await _hand_on(repository, backup_id, mark, run=run)
        entries.append(_entry(backup_id, manifest.created_at, mark))
    return entries


async def _hand_on(repository: Repository, backup_id: str, mark: Verification, *, run: Run) -> None:
    if mark.at is None:
        return
    async with run.publishing():
        if mark.state is VerificationState.VERIFIED:
            await repository.mark_verified(backup_id, at=mark.at)
        else:
            await repository.mark_failed(backup_id, at=mark.at, reason=mark.reason or "")


def _entry(backup_id: str, made_at: datetime, mark: Verification) -> Entry:
    return Entry(
        backup_id=backup_id,
        made_at=made_at,
        is_verified=mark.state is VerificationState.VERIFIED,
        is_failed=mark.state is VerificationState.FAILED,
    )


async def _sweep(repository: Repository, pruned: Pruned, *, run: Run, stale_after: timedelta) -> None:
    """Delete what no manifest names. While pruning is frozen, data stays: somebody may want to look into it."""
    if pruned.frozen is None:
        async for orphan in repository.orphans(older_than=stale_after):
            if orphan.backup_id in pruned.refused:
                continue
            async with run.publishing(), _refusals(pruned, orphan.backup_id, then=pruned.orphans.append):
                await repository.delete_data(orphan.backup_id)
    pruned.uploads = await repository.sweep_uploads(older_than=stale_after)


@asynccontextmanager
async def _refusals(pruned: Pruned, backup_id: str, *, then: Callable[[str], None]) -> AsyncIterator[None]:
    """Write down that the store refuses, and go on with the next one; what else fails ends the run."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) >= 500:
            raise
        pruned.refused[backup_id] = str(error)
    else:
        then(backup_id)
