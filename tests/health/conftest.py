"""Probes that wait for a machine that stands still: what is down here refuses, and does not hang."""

import pytest

from zenzefi.health import probes


@pytest.fixture(autouse=True)
def _patient_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PROBE_TIMEOUT_S", 30.0)
