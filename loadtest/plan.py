"""What a load test does, from the variables LOADTEST_…: how many users, which journeys, which shape, what must hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from zenzefi.environment import EnvironmentReader, SettingsError

# Of each journey, in one user's hundreds of requests. Signing in is what a session begins with, whatever its weight.
DEFAULT_WEIGHTS: Mapping[str, float] = {
    "balance": 5,
    "my_tokens": 10,
    "health": 2,
    "purchase": 1,
    "proxy_small": 20,
    "proxy_large": 1,
    "sign_in": 0.05,
}
_MIB = 1024 * 1024
# Locust takes whole weights.
_WEIGHT_UNITS = 100


def target_url(environ: Mapping[str, str]) -> str:
    """Where the requests go: LOADTEST_URL, or PORT of this machine."""
    return (environ.get("LOADTEST_URL") or f"http://127.0.0.1:{environ.get('PORT') or 8000}").rstrip("/")


class Shape(StrEnum):
    """How the number of users goes over time."""

    STEADY = "steady"
    RAMP = "ramp"
    SPIKE = "spike"
    SOAK = "soak"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What must hold at the end, or the exit code is 1. Times in milliseconds, of all requests together."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    error_percent: float
    least_per_second: float

    def missed(
        self, *, p50_ms: float, p95_ms: float, p99_ms: float, error_percent: float, per_second: float
    ) -> list[str]:
        """A sentence for each that does not hold."""
        times = (("p50", p50_ms, self.p50_ms), ("p95", p95_ms, self.p95_ms), ("p99", p99_ms, self.p99_ms))
        sentences = [
            f"{name} is {found:.0f} ms, and {most:g} ms are allowed" for name, found, most in times if found > most
        ]
        if error_percent > self.error_percent:
            sentences.append(f"{error_percent:.3g} % of the requests failed, and {self.error_percent:g} % may")
        if per_second < self.least_per_second:
            sentences.append(f"{per_second:.0f} requests a second were made, and {self.least_per_second:g} are wanted")
        return sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole of it."""

    url: str
    users: int
    per_user_per_second: float
    seconds: int
    shape: Shape
    people: int
    people_file: str
    small_path: str
    large_path: str
    thresholds: Thresholds
    weights: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Plan":
        """Read and check all of it.

        Raises:
            SettingsError: a variable is bad; the message names it.
        """
        reader = EnvironmentReader(environ)
        large_bytes = reader.integer("LOADTEST_LARGE_BYTES", _MIB, least=0, most=1024 * _MIB)
        return cls(
            url=target_url(environ),
            users=reader.integer("LOADTEST_USERS", 100, least=1, most=100_000),
            per_user_per_second=_number(reader, "LOADTEST_RATE", 10.0),
            seconds=reader.integer("LOADTEST_SECONDS", 60, least=1, most=604_800),
            shape=reader.read("LOADTEST_SHAPE", Shape, "steady, ramp, spike or soak", default=Shape.STEADY),
            people=reader.integer("LOADTEST_PEOPLE_COUNT", 1000, least=1, most=1_000_000),
            people_file=reader.text("LOADTEST_PEOPLE_FILE", ""),
            small_path=reader.text("LOADTEST_SMALL_PATH", "/certificates/filter"),
            large_path=reader.text("LOADTEST_LARGE_PATH", f"/big?bytes={large_bytes}"),
            thresholds=Thresholds(
                p50_ms=_number(reader, "LOADTEST_P50_MS", 50.0),
                p95_ms=_number(reader, "LOADTEST_P95_MS", 200.0),
                p99_ms=_number(reader, "LOADTEST_P99_MS", 500.0),
                error_percent=_number(reader, "LOADTEST_ERROR_PERCENT", 0.0),
                least_per_second=_number(reader, "LOADTEST_LEAST_PER_SECOND", 0.0),
            ),
            weights=_weights(reader),
        )


def _number(reader: EnvironmentReader, name: str, default: float) -> float:
    def convert(raw: str) -> float:
        value = float(raw)
        if not 0 <= value <= 1e9:
            raise ValueError
        return value

    return reader.read(name, convert, "a number that is not below 0", default=default)


def _weights(reader: EnvironmentReader) -> dict[str, int]:
    """Whole weights of the journeys that have any: those of LOADTEST_WEIGHTS over the default ones."""
    allowed = f"NAME=WEIGHT,… of {', '.join(DEFAULT_WEIGHTS)}, with at least one above 0"

    def convert(raw: str) -> dict[str, float]:
        given = dict(part.strip().split("=") for part in raw.split(",") if part.strip())
        if not given.keys() <= DEFAULT_WEIGHTS.keys():
            raise ValueError
        return {name: float(weight) for name, weight in given.items()}

    given: dict[str, float] = reader.read("LOADTEST_WEIGHTS", convert, allowed, default={})
    weights = {name: round(_WEIGHT_UNITS * value) for name, value in {**DEFAULT_WEIGHTS, **given}.items()}
    if min(weights.values()) < 0 or max(weights.values()) == 0:
        raise SettingsError(f"LOADTEST_WEIGHTS has a value that cannot be used; allowed: {allowed}.")
    return {name: weight for name, weight in weights.items() if weight}
