"""How a check says that something is wrong."""

from collections.abc import Iterable


class CheckFailed(Exception):
    """What is wrong and where, for the person who has to mend it."""


def require(findings: Iterable[str], *, what: str) -> None:
    """Raise CheckFailed with all findings, one a line; without any this does nothing."""
    lines = list(findings)
    if lines:
        raise CheckFailed("\n".join([f"{what}:", *(f"  {line}" for line in lines)]))
