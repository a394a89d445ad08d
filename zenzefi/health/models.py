"""What a look at the service's health finds."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class HealthStatus(StrEnum):
    """The answer of GET /health."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    """Only the upstream cannot be reached: accounts, wallets and tokens work."""
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One dependency as it was found; `detail` says how it fails and is empty when it does not."""

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The service's health at one instant (the database's clock)."""

    status: HealthStatus
    taken_at: datetime
