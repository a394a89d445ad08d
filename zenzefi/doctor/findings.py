"""What a look at something found."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How something was found; from best to worst."""

    OK = "ok"
    WARN = "warn"
    """Works, and something about it will hurt one day."""
    FAIL = "fail"
    """Does not work, or breaks a promise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing as it was found; `fix` is empty when there is nothing to mend."""

    name: str
    verdict: Verdict
    detail: str
    fix: str = ""


def ok(name: str, detail: str) -> Finding:
    """Nothing to mend."""
    return Finding(name=name, verdict=Verdict.OK, detail=detail)


def warn(name: str, detail: str, fix: str) -> Finding:
    """Something to mend one day."""
    return Finding(name=name, verdict=Verdict.WARN, detail=detail, fix=fix)


def fail(name: str, detail: str, fix: str) -> Finding:
    """Something to mend now."""
    return Finding(name=name, verdict=Verdict.FAIL, detail=detail, fix=fix)


def worst_of(findings: Iterable[Finding]) -> Verdict:
    """The worst verdict among them; OK of none."""
    order = list(Verdict)
    return max((finding.verdict for finding in findings), key=order.index, default=Verdict.OK)
