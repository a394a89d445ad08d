"""The images without an engine: each step of the Dockerfile in a bare Debian tree, then the services from the result.

Not exercised, and said so: the package of PostgreSQL's own archive, which this machine may not reach.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.checks.building import Builder, lines
from deploy.checks.debian import ROOT
from deploy.checks.dockerfile import IMAGES, read_stages
from deploy.checks.failures import require
from deploy.checks.installation import Installation
from deploy.checks.servers import open_servers
from deploy.checks.trees import base_tree, inside, require_root

# The step that needs apt.postgresql.org.
_OUT_OF_REACH: Final = '"postgresql-client-$'
_BIGGEST_MB: Final = 300


def check_container() -> None:
    """Raise CheckFailed with the step or the service that fails."""
    require_root()
    with open_servers() as servers:
        started = time.monotonic()
        folder = servers.folder / "images"
        folder.mkdir()
        base = base_tree()
        builder = Builder(read_stages(), folder, base=base, out_of_reach=_OUT_OF_REACH)
        for name in IMAGES:
            builder.build(name)
        print(f"  built in {time.monotonic() - started:.0f} s: line {lines(builder.done)} of the Dockerfile")
        print(
            f"  not run: line {lines(builder.left_out)}; the embedded PostgreSQL's programs stand in for its packages"
        )
        require(_findings(builder, base), what="The images")
        Installation(servers, builder).check()


def _findings(builder: Builder, base: Path) -> Iterator[str]:
    """What is in the trees that ought not to be, or the other way round."""
    tree = builder.trees["web"]
    site = next((tree / "opt/zenzefi/lib").glob("python3.*/site-packages"))
    for folder in ("zenzefi/_migrations", "workers", "zenzefi/web/static", "opentelemetry"):
        if not (site / folder).is_dir():
            yield f"{folder} is missing"
    if (site / "pip").exists() or (tree / "build").exists():
        yield "build tools are in the image"
    if not list((site / "zenzefi/__pycache__").glob("app.*.pyc")):
        yield "there is no bytecode"
    own = [path for path in (tree / "opt").rglob("*") if path.lstat().st_uid != 0 or path.lstat().st_mode & 0o6002]
    yield from (f"{path.relative_to(tree)} is not root's alone to write" for path in own if not path.is_symlink())
    grown_mb = (_size(tree) - _size(base)) / 1e6
    print(f"  the web image is {grown_mb:.0f} MB on top of its base")
    if grown_mb > _BIGGEST_MB:
        yield f"the web image is {grown_mb:.0f} MB on top of its base; {_BIGGEST_MB} MB are allowed"
    key = builder.trees["worker"] / "usr/share/postgresql-common/pgdg/apt.postgresql.org.asc"
    if "BEGIN PGP PUBLIC KEY BLOCK" not in key.read_text(encoding="ascii"):
        yield "Debian's package has no key of apt.postgresql.org"
    for source in (ROOT / "deploy/docker/pgdg.sources").read_text(encoding="utf-8").splitlines():
        name, _, value = source.partition(": ")
        if name == "Signed-By" and not inside(builder.trees["worker"], value).is_file():
            yield f"pgdg.sources names the key {value}, which is not there"


def _size(tree: Path) -> int:
    return sum(os.lstat(Path(folder) / name).st_size for folder, _, names in os.walk(tree) for name in names)
