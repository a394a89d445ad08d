"""An embedded S3 store (SeaweedFS): one folder holds its objects, keys, ports, log and lock."""

import http.client
import json
from pathlib import Path

from zenzefi.devstack.binaries import find_seaweedfs
from zenzefi.devstack.embedded import EmbeddedServer
from zenzefi.devstack.ports import LOOPBACK, recall_ports
from zenzefi.devstack.process import Command, make_private_directory
from zenzefi.devstack.secretfile import read_or_make_secret, write_private_file

_PROBE_TIMEOUT_S = 0.5
_ALL_PARTS_RUN = "All enabled components are running and ready to use"
# `weed mini` runs all of these in one process and would take fixed ports for them.
_INNER_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
    "admin.port",
    "admin.port.grpc",
)


class EmbeddedSeaweedFS(EmbeddedServer):
    """One S3 endpoint on the loopback address, with the `bucket` that is named, if one is.

    The filer behind it serves every object without a key, so nothing of it may ever listen beyond the loopback address.
    """

    name = "SeaweedFS (S3)"
    start_timeout_s = 60.0  # 1.5 s on an idle machine

    def __init__(
        self, directory: Path, *, port: int | None = None, bucket: str = "", log_file: Path | None = None
    ) -> None:
        super().__init__(directory, port=port, log_file=log_file)
        self.bucket = bucket
        self.access_key = ""
        self.secret_key = ""
        self._inner_ports: dict[str, int] = {}

    @property
    def endpoint_url(self) -> str:
        """Where S3 clients connect."""
        return f"http://{self.host}:{self.port}"

    def prepare(self) -> None:
        """Make the folder and the keys, or find them again."""
        make_private_directory(self.directory)
        self.access_key = read_or_make_secret(self.directory / "access-key")
        self.secret_key = read_or_make_secret(self.directory / "secret-key")

    def _make_command(self) -> Command:
        data = self.directory / "data"
        make_private_directory(data)
        identities = self.directory / "identities.json"
        write_private_file(identities, self._identities())
        self._inner_ports = recall_ports(self.directory / "ports.json", _INNER_PORTS)
        self._remove_sockets()  # of a run that was killed
        return Command(
            name=self.name,
            arguments=[find_seaweedfs(), *self._arguments(data, identities)],
            log_file=self.log_file,
            # Go's collector would let the heap double before it acts; this is a guest on somebody's laptop.
            environment={"PATH": "/usr/bin:/bin", "HOME": str(data), "TZ": "UTC", "GOMEMLIMIT": "256MiB"},
            working_directory=self.directory,
            lock_file=self.directory / "lock",
        )

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """Stop in order, or kill after `timeout_s` seconds. Idempotent."""
        super().stop(timeout_s=timeout_s)
        self._remove_sockets()

    def _arguments(self, data: Path, identities: Path) -> list[str]:
        return [
            "-logtostderr=true",
            "mini",
            f"-dir={data}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            f"-s3.port={self.port}",
            *(f"-{name}={port}" for name, port in self._inner_ports.items()),
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-bucket={self.bucket}",
            f"-s3.config={identities}",
            "-s3.iam=false",
            "-admin.ui=false",
            "-webdav=false",
            "-master.telemetry=false",
            # Relative to the working directory: the path of a socket is limited to 107 bytes.
            "-filer.localSocket=filer.sock",
            "-s3.localSocket=s3.sock",
            "-volume.preStopSeconds=0",
            "-master.electionTimeout=1s",
        ]

    def _identities(self) -> str:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        identity = {
            "name": "zenzefi",
            "credentials": credentials,
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        return json.dumps({"identities": [identity]}, indent=2) + "\n"

    def _remove_sockets(self) -> None:
        """Remove the sockets that weed makes for its inner ports at a place that cannot be set, and leaves there."""
        for name, port in self._inner_ports.items():
            part = name.partition(".")[0]
            Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108

    def _is_ready(self) -> bool:
        """Whether all its parts run and know each other; S3 answers a little before that, and reads would fail."""
        return (
            _ALL_PARTS_RUN in self.child.log_text()
            and self._answers(self.port, "/healthz")
            # Until the master has heard of a volume of an earlier run, the objects there cannot be read.
            and all(
                self._answers(self._inner_ports["master.port"], f"/dir/lookup?volumeId={volume}")
                for volume in self._volumes_on_disk()
            )
        )

    def _volumes_on_disk(self) -> list[str]:
        return [file.stem.rpartition("_")[2] for file in (self.directory / "data").rglob("*.dat")]

    def _answers(self, port: int, path: str) -> bool:
        connection = http.client.HTTPConnection(self.host, port, timeout=_PROBE_TIMEOUT_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
