"""The README's way to restore without anything of ours: its own commands, word by word, with the real age.

The product runs and is used while its backup is made; the backup is restored on a new PostgreSQL server, and all that
was restored is compared with what the manifest says of the snapshot.
"""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import asyncpg

from deploy.checks import debian
from deploy.checks.failures import CheckFailed, require
from deploy.checks.running import run
from deploy.checks.servers import Servers, open_servers
from deploy.checks.traffic import generate_traffic
from zenzefi.backups.connections import open_direct
from zenzefi.backups.models import Manifest
from zenzefi.backups.proof import differences, take_proof
from zenzefi.backups.repository import open_repository
from zenzefi.devstack.binaries import find_postgres
from zenzefi.devstack.plan import Plan
from zenzefi.devstack.ports import LOOPBACK, find_free_port, find_free_ports
from zenzefi.devstack.postgres import EmbeddedPostgres
from zenzefi.infra.storage import Storage
from zenzefi.settings import Settings

_SECTIONS: Final = ("**Back up** PostgreSQL", "To restore by hand")
_DATABASE: Final = "restored"  # as the README calls it
# In the place of AWS's own tool, which only fetches the object here.
_AWS: Final = """#!{python}
import os, sys
from urllib.parse import urlsplit
import botocore.session
command, subcommand, source, target = sys.argv[1:]
assert (command, subcommand, target) == ("s3", "cp", "-"), sys.argv
client = botocore.session.get_session().create_client(
    "s3", endpoint_url=os.environ["S3_ENDPOINT_URL"], region_name="us-east-1",
    aws_access_key_id=os.environ["S3_ACCESS_KEY"], aws_secret_access_key=os.environ["S3_SECRET_KEY"],
)
where = urlsplit(source)
for piece in client.get_object(Bucket=where.netloc, Key=where.path.lstrip("/"))["Body"].iter_chunks(65536):
    sys.stdout.buffer.write(piece)
"""


def check_backup_by_hand() -> None:
    """Raise CheckFailed when the README's commands do not bring everything back."""
    asyncio.run(_check())


async def _check() -> None:
    make, restore = (_commands_below(section) for section in _SECTIONS)
    age = debian.ensure("age", binary="age")
    with open_servers() as servers:
        plan = servers.run_product(_product_environment())
        tools = _make_tools(servers.folder, age)
        environment = _environment(plan.environment, tools)
        async with generate_traffic(f"http://{plan.settings.host}:{plan.settings.port}"):
            await asyncio.to_thread(_make_backup, make, servers.folder, environment)
        manifest = await _read_manifest(plan)
        with_commands = restore.replace("BUCKET", plan.settings.s3.bucket).replace("ID", manifest.id)
        server = await _run_new_server(servers)
        await asyncio.to_thread(_shell, with_commands, servers.folder, environment | _reach(server))
        async with open_direct(_settings_of(plan, server), database=_DATABASE) as connection:
            require(differences(manifest.proof, await take_proof(connection)), what="What was restored differs")
            people = await connection.fetchval("SELECT count(*) FROM public.users")
    if not people:
        raise CheckFailed("The backup has no rows of people.")
    print(
        f"  {manifest.proof.rows} rows of {len(manifest.proof.tables)} tables, {people} people, by age and pg_restore"
    )


def _commands_below(words: str) -> str:
    """The shell commands that follow these words in the README."""
    text = (debian.ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(re.escape(words) + r".*?```sh\n(.*?)```", text, re.DOTALL)
    if found is None:
        raise CheckFailed(f"README.md has no commands below {words!r} any more.")
    return found.group(1)


def _make_backup(commands: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Run the README's commands, and put the public key in its place as soon as there is one."""
    first, _, others = commands.partition("\n")
    _shell(first, folder, environment)
    key = re.search(r"age1\w+", (folder / "backup-key.txt").read_text(encoding="utf-8"))
    if key is None or "age1…" not in others:
        raise CheckFailed("The README's first command makes no key, or its second uses none.")
    _shell(others.replace("age1…", key.group()), folder, environment)


async def _read_manifest(plan: Plan) -> Manifest:
    async with open_repository(Storage(plan.settings.s3), plan.settings.backup) as repository:
        manifest = await repository.find_newest()
    if manifest is None:
        raise CheckFailed("The README's commands made no backup.")
    return manifest


async def _run_new_server(servers: Servers) -> EmbeddedPostgres:
    """A server without any role of ours, but for the one that the README has made first."""
    server = EmbeddedPostgres(servers.folder / "new-server", durable=False)
    server.start()  # in this thread: it would die with another
    servers.at_end(server.stop)
    connection = await asyncpg.connect(server.dsn())
    await connection.execute("CREATE ROLE zenzefi_app")
    await connection.close()
    return server


def _product_environment() -> dict[str, str]:
    ports = {"PORT": find_free_port(), "INTERNAL_PORT": find_free_port(), "WORKER_METRICS_PORT": find_free_ports(2)}
    return {name: str(port) for name, port in ports.items()} | {
        "PROCESSES": "1",
        "PAYMENT_RETURN_HOSTS": LOOPBACK,
        "REDIS_DEADLINE": "2",
    }


def _make_tools(folder: Path, age: Path) -> Path:
    """A folder for the PATH: `python` is ours, `aws` fetches, and age is Debian's."""
    tools = folder / "tools"
    tools.mkdir()
    (tools / "python").write_text(f'#!/bin/sh\nPYTHONPATH="{debian.ROOT}" exec "{sys.executable}" "$@"\n')
    (tools / "aws").write_text(_AWS.format(python=sys.executable))
    shutil.copy(age, tools / "age")
    for name in ("python", "aws"):
        (tools / name).chmod(0o755)
    return tools


def _environment(product: Mapping[str, str], tools: Path) -> dict[str, str]:
    path = os.pathsep.join([str(tools), str(find_postgres() / "bin"), os.environ["PATH"]])
    return debian.environment({**product, "PATH": path})


def _reach(server: EmbeddedPostgres) -> dict[str, str]:
    """Where PostgreSQL's own programs find a server."""
    return {
        "PGHOST": server.host,
        "PGPORT": str(server.port),
        "PGUSER": server.superuser,
        "PGPASSWORD": server.password,
    }


def _settings_of(plan: Plan, server: EmbeddedPostgres) -> Settings:
    login = {"POSTGRES_OWNER_USER": server.superuser, "POSTGRES_OWNER_PASSWORD": server.password}
    place = {"POSTGRES_SERVER": server.host, "POSTGRES_PORT": str(server.port)}
    return Settings.from_env({**plan.environment, **place, **login})


def _shell(commands: str, folder: Path, environment: Mapping[str, str]) -> None:
    run(["bash", "-c", f"set -euo pipefail\n{commands}"], working_directory=folder, environment=environment)
