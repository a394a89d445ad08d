"""Programs inside of a tree of files, kept from everything outside by bubblewrap, as an engine would keep them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.checks import debian
from deploy.checks.trees import inside


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """Something at a path inside: a file or folder of this machine, or (no source) an empty folder in memory."""

    target: str
    source: Path | None = None
    writable: bool = False
    size_bytes: int = 0
    mode: str = "1777"


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A root folder and what is mounted over it. With `user`, all rights of root are given up for good."""

    tree: Path
    writable: bool = False
    user: str = "0:0"
    working_directory: str = "/"
    mounts: Sequence[Mount] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, arguments: Sequence[str]) -> list[str | Path]:
        """What to execute for these arguments to run inside, as process 1 of their own."""
        bubblewrap = debian.ensure("bubblewrap", binary="bwrap")
        root = ["--bind" if self.writable else "--ro-bind", str(self.tree), "/"]
        mounts = [option for mount in self.mounts for option in self._mount(mount)]
        return [
            bubblewrap,
            *root,
            *("--proc", "/proc", "--dev", "/dev"),
            *mounts,
            *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1", "--die-with-parent"),
            *("--chdir", self.working_directory, "--clearenv"),
            *(part for name, value in self.environment.items() for part in ("--setenv", name, value)),
            "--",
            *self._give_up_rights(),
            *arguments,
        ]

    def _mount(self, mount: Mount) -> list[str]:
        point = inside(self.tree, mount.target)
        self._make_mount_point(mount, point)
        target = f"/{point.relative_to(self.tree)}"
        if mount.source is None:
            size = ["--size", str(mount.size_bytes)] if mount.size_bytes else []
            return ["--perms", mount.mode, *size, "--tmpfs", target]
        return ["--bind" if mount.writable else "--ro-bind", str(mount.source), target]

    def _make_mount_point(self, mount: Mount, point: Path) -> None:
        """Make the empty file or folder that is mounted over, as an engine does before it starts the container."""
        if any(mount.target.startswith(f"{other.target}/") for other in self.mounts):
            return  # inside of another mount, where bubblewrap can make it
        if mount.source is not None and not mount.source.is_dir():
            point.parent.mkdir(parents=True, exist_ok=True)
            point.touch()
        else:
            point.mkdir(parents=True, exist_ok=True)

    def _give_up_rights(self) -> list[str]:
        """cap_drop: ALL and no-new-privileges."""
        user, _, group = self.user.partition(":")
        if user == "0" and self.writable:
            return []  # a step of a build
        ids = ["--reuid", user, "--regid", group or user, "--clear-groups"]
        return ["/usr/bin/setpriv", *ids, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"]
