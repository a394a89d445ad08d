"""The round: what is looked at, in which order it is told, and what production makes of it."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Final

from zenzefi.doctor.bucket import check_bucket
from zenzefi.doctor.configuration import check_configuration, check_settings
from zenzefi.doctor.database import check_database
from zenzefi.doctor.findings import Finding, Verdict, fail
from zenzefi.doctor.machine import check_disks, check_open_files, check_parser
from zenzefi.doctor.postgres import check_postgres
from zenzefi.doctor.public_address import check_public_address
from zenzefi.doctor.redis import check_queue, check_redis, check_redis_for_production
from zenzefi.doctor.secrets import check_secrets
from zenzefi.doctor.services import check_mail, check_storage, check_upstream
from zenzefi.doctor.upkeep import check_upkeep
from zenzefi.settings import Settings, SettingsError

# A developer's machine does without; nobody's money should.
_DEMANDED_IN_PRODUCTION: Final = frozenset(
    {"settings", "secret key", "partitions", "redis persistence", "workers", "s3", "upstream", "open files"}
)
# Only what runs already can show these.
_RUNNING: Final = frozenset({"workers"})


class Role(StrEnum):
    """What a process is there for, where each has only the settings and the networks that it needs."""

    WEB = "web"
    WORKER = "worker"
    WORKER_HEAVY = "worker-heavy"


# They have the login that migrates and backs up, and the way around PgBouncer.
_OWNERS: Final = (None, Role.WORKER_HEAVY)
# What others have to be asked about.
_STORE: Final = frozenset({"s3", "s3 safety", "s3 encryption", "backup key"})
_FRONT: Final = frozenset(
    {"trusted proxies", "rate limits", "public address", "certificate", "old tls", "public health", "hsts"}
    | {"closed ports"}
)
_OF_OTHERS: Final[Mapping[Role | None, frozenset[str]]] = {
    None: frozenset(),
    Role.WEB: _STORE | {"mail"},
    Role.WORKER: _STORE | _FRONT,
    Role.WORKER_HEAVY: _FRONT | {"payments"},
}


async def examine(
    environ: Mapping[str, str] | None = None,
    *,
    production: bool = False,
    before_start: bool = False,
    role: Role | None = None,
) -> list[Finding]:
    """Look at everything. Never raises for what it finds; changes nothing.

    `production` holds it to production's rules; `before_start` leaves out what only a running service can show; `role`
    what is another one's business.
    """
    environ = os.environ if environ is None else environ
    machine = [check_parser(), check_open_files()]
    try:
        settings = Settings.from_env(environ)
    except SettingsError as error:
        return [fail("settings", str(error), "Correct the variable; README.md lists them all."), *machine]
    groups = await asyncio.gather(
        check_postgres(settings, as_owner=role in _OWNERS),
        check_redis(settings),
        check_queue(settings),
        check_storage(settings),
        check_upstream(settings),
        # Without its password, which it is not given, it would be refused; a server may lock a login that often is.
        *(() if "mail" in _OF_OTHERS[role] else (check_mail(settings),)),
    )
    findings = [*check_settings(settings), *(finding for group in groups for finding in group), *machine]
    if production:
        findings += await _examine_for_production(settings, environ, before_start=before_start, role=role)
        findings = [_hold_to_production(finding) for finding in findings]
    left_out = _OF_OTHERS[role] | (_RUNNING if before_start else frozenset())
    return [finding for finding in findings if finding.name not in left_out]


async def _examine_for_production(
    settings: Settings, environ: Mapping[str, str], *, before_start: bool, role: Role | None
) -> list[Finding]:
    looks = [check_database(settings), check_redis_for_production(settings), check_bucket(settings)]
    if not before_start:
        looks.append(check_upkeep(settings))
        if "public address" not in _OF_OTHERS[role]:
            looks.append(check_public_address(settings))
    groups = await asyncio.gather(*looks)
    return [
        *check_configuration(settings),
        *check_secrets(settings, environ),
        *(finding for group in groups for finding in group),
        *check_disks(),
    ]


def _hold_to_production(finding: Finding) -> Finding:
    if finding.verdict is Verdict.WARN and finding.name in _DEMANDED_IN_PRODUCTION:
        return replace(finding, verdict=Verdict.FAIL)
    return finding
