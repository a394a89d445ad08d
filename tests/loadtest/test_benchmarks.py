"""The benchmarks work from end to end, on servers of their own; what they measure here means nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 240.0  # 20 s on an idle machine

pytestmark = pytest.mark.timeout(300)


def _run(directory: Path, *names: str) -> dict[str, dict[str, Any]]:
    """The figures of each benchmark by their names."""
    subprocess.run(
        [sys.executable, "-m", "loadtest.bench", *names, "--quick", "--output", str(directory)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=TIMEOUT_S,
    )
    results = {name: json.loads((directory / f"{name}.json").read_text()) for name in names}
    return {name: {figure["name"]: figure for figure in result["figures"]} for name, result in results.items()}


def test_routes_and_purchases_are_measured(tmp_path: Path) -> None:
    found = _run(tmp_path, "api", "growth", "purchases")
    assert found["api"]["balance, throughput"]["ratio"] > 0
    assert found["growth"]["GET /api/v1/currency/transactions"]["ratio"] > 0
    assert found["purchases"]["purchases, one wallet"]["value"] > 0
    assert found["purchases"]["faults in the ledger"]["value"] == 0


@pytest.mark.parametrize("name", ["mix", "soak"])
def test_an_installation_is_loaded_by_locust(name: str, tmp_path: Path) -> None:
    figures = _run(tmp_path, name)[name]
    errors = figures["its errors" if name == "mix" else "errors"]
    assert (errors["value"], errors["unit"]) == (0, "%")
    assert figures["memory of a web process"]["value"] > 10


def test_processes_are_compared(tmp_path: Path) -> None:
    figures = _run(tmp_path, "processes")["processes"]
    assert figures["proxied request, two processes"]["ratio"] > 0
