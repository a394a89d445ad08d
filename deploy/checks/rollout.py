"""rollout.sh, run as on a server: releases of the product replace each other under load, and bad ones do not.

What is left out is Docker (see engine.py). PostgreSQL, Valkey, the releases' processes and the load are real.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from deploy.checks.debian import ROOT
from deploy.checks.failures import CheckFailed, require
from deploy.checks.files import read_yaml
from deploy.checks.rollout_server import Instance, Release, Server
from deploy.checks.servers import open_servers
from deploy.checks.visitors import Visitors

_SCRIPT_TIMEOUT_S: Final = 480.0
_POLL_S: Final = 0.05
_BUSY: Final = 75
_UNIQUE: Final = ("container_name", "ports")
_SERVICES: Final = {"web": 2, "worker": 1, "worker-heavy": 1}


def check_rollout() -> None:
    """Raise CheckFailed with the first thing that goes otherwise than deploy/rollout.md says."""
    require(_find_in_services(), what="docker-compose.yml is not as rollout.sh needs it")
    with open_servers() as servers, ExitStack() as stack:
        server = Server(servers, stack)
        server.start()
        asyncio.run(_Rehearsal(server).run())


def _find_in_services() -> Iterator[str]:
    """What the stand-in for Docker would not notice."""
    services = read_yaml(ROOT / "docker-compose.yml")["services"]
    for name in _SERVICES:
        yield from (f"{name} has {key}, so that there can be only one" for key in _UNIQUE if key in services[name])
        if "test" not in services[name].get("healthcheck", {}):
            yield f"{name} has no health check, so that nobody knows when it is ready"
    if not any(":/etc/zenzefi/nginx" in volume for volume in services["nginx"]["volumes"]):
        yield "nginx has its configuration elsewhere, and would not be reloaded"


class _Rehearsal:
    """The life of a server, from its first release on."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._visitors = server.visitors()

    async def run(self) -> None:
        first = self._server.add_release("first", _as_it_is)
        await self._roll_out(first)
        async with self._visitors.visiting():
            second = await self._add_a_column(first)
            await self._refuse_bad_releases(second)
            await self._interrupt_and_go_back(second)
        self._require_content(self._visitors)

    async def _add_a_column(self, first: Release) -> Release:
        """A release with an expanding migration, while the old one serves; a second rollout is refused meanwhile."""
        second = self._server.add_release("second", _add_column, after=first)
        running = await self._server.start_script(second.script, second.web, second.worker)
        await self._until_started(second)
        await self._script(first.script, first.web, first.worker, expected=_BUSY, says="another rollout is running")
        await self._end_of(running, expected=0, says="serves")
        self._require_serving(second)
        return second

    async def _refuse_bad_releases(self, good: Release) -> None:
        before = self._server.instances("web")
        unready = self._server.add_release("unready", _never_become_ready, after=good)
        await self._roll_out_in_vain(unready, says="serves as before")
        self._require_same(before)
        unmigrated = self._server.add_release("unmigrated", _break_migration, after=good)
        await self._roll_out_in_vain(unmigrated, says="failed before anything was replaced")
        self._require_same(before)
        idle = self._server.add_release("idle", _crash_workers, after=good)
        await self._roll_out_in_vain(idle, says="serves as before")
        self._require_serving(good)

    async def _interrupt_and_go_back(self, good: Release) -> None:
        """Kill a rollout half way, run it again; then back, but no further than a contracting migration lets."""
        third = self._server.add_release("third", _drop_column, after=good)
        running = await self._server.start_script(third.script, third.web, third.worker)
        await self._until_started(third)
        running.kill()
        await running.wait()
        await self._roll_out(third)
        current = self._server.root / "deploy/rollout.sh"
        await self._script(current, "--rollback", expected=0, says="serves")
        self._require_serving(good)
        await self._script(current, "--rollback", expected=1, says="9002.contract-nickname")
        self._require_serving(good)

    async def _roll_out(self, release: Release) -> None:
        """Roll out, again while the docker command of a killed run still holds the lock."""
        code = _BUSY
        while code == _BUSY:
            process = await self._server.start_script(release.script, release.web, release.worker)
            code, output = await _wait(process)
        _require_end(code, output, expected=0, says="serves")
        self._require_serving(release)

    async def _roll_out_in_vain(self, release: Release, *, says: str) -> None:
        await self._script(release.script, release.web, release.worker, expected=1, says=says)

    async def _script(self, script: Path, *arguments: str, expected: int, says: str) -> None:
        await self._end_of(await self._server.start_script(script, *arguments), expected=expected, says=says)

    async def _end_of(self, process: asyncio.subprocess.Process, *, expected: int, says: str) -> None:
        code, output = await _wait(process)
        _require_end(code, output, expected=expected, says=says)

    async def _until_started(self, release: Release) -> None:
        """Wait for the first web instance of a release, which may not be ready yet."""
        deadline = time.monotonic() + _SCRIPT_TIMEOUT_S
        while all(each.image != release.web for each in self._server.instances("web")):
            if time.monotonic() > deadline:
                raise CheckFailed(f"No instance of {release.folder.name} was started.")
            await asyncio.sleep(_POLL_S)

    def _require_serving(self, release: Release) -> None:
        findings = []
        for service, count in _SERVICES.items():
            image = release.web if service == "web" else release.worker
            images = [each.image for each in self._server.instances(service)]
            if images != [image] * count:
                findings.append(f"{service} should be {count} of {release.folder.name}, and is {images}")
        current = (self._server.root / "current").resolve()
        if current != release.folder.resolve():
            findings.append(f"current is {current.name}")
        require(findings, what=f"What runs is not {release.folder.name}")

    def _require_same(self, before: list[Instance]) -> None:
        after = self._server.instances("web")
        require([str(after)] if after != before else [], what="Instances were replaced, though the release was bad")

    def _require_content(self, visitors: Visitors) -> None:
        require(visitors.failures[:20], what=f"{len(visitors.failures)} requests failed")
        total = visitors.answered.total()
        print(
            f"  {total} requests, 0 failed; {visitors.went_on} went on to another instance, "
            f"{visitors.sent_again} of {visitors.payments} payments were sent again, each was taken once",
            flush=True,
        )


async def _wait(process: asyncio.subprocess.Process) -> tuple[int, str]:
    try:
        async with asyncio.timeout(_SCRIPT_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise CheckFailed(f"rollout.sh took longer than {_SCRIPT_TIMEOUT_S:g} s.") from None
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


def _require_end(code: int, output: str, *, expected: int, says: str) -> None:
    if code != expected or says not in output:
        raise CheckFailed(f"rollout.sh ended with {code}, not {expected}, or did not say {says!r}:\n{output}")


def _as_it_is(_source: Path) -> None:
    pass


def _add_column(source: Path) -> None:
    _write(source / "migrations/9001.nickname.sql", "ALTER TABLE users ADD COLUMN nickname text;\n")


def _drop_column(source: Path) -> None:
    _write(source / "migrations/9002.contract-nickname.sql", "ALTER TABLE users DROP COLUMN nickname;\n")


def _break_migration(source: Path) -> None:
    _write(source / "migrations/9003.broken.sql", "ALTER TABLE users ADD COLUMN nickname text;\nSELECT 1 / 0;\n")


def _never_become_ready(source: Path) -> None:
    _replace(source / "zenzefi/health/service.py", "if ctx.draining:", "if ctx is not None:")


def _crash_workers(source: Path) -> None:
    _replace(source / "workers/main.py", "settings = Settings.from_env()", 'raise ZenzefiError("a bad release")')


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    if old not in text:
        raise CheckFailed(f"{file.name} has no {old!r} any more, which this check breaks.")
    _write(file, text.replace(old, new))


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
