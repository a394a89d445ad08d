"""What an expression of PromQL asks for: its metrics, and the series that it selects."""

from typing import Final

import promql_parser
from promql_parser import Expr, VectorSelector

from deploy.checks.failures import CheckFailed

# What Grafana makes of $__rate_interval with our scrape interval; the other variables choose everything.
RATE_INTERVAL: Final = "1m"
_VARIABLES: Final = ("$instance", "$datname", "$name")


def fill_in(expression: str, *, rate_interval: str = RATE_INTERVAL) -> str:
    """A panel's expression with Grafana's variables filled in."""
    filled = expression.replace("$__rate_interval", rate_interval)
    for variable in _VARIABLES:
        filled = filled.replace(variable, ".*")
    return filled


def selectors(expression: str) -> list[VectorSelector]:
    """Every selector of series in an expression, those under a range included; raises CheckFailed: it is no PromQL."""
    found: list[VectorSelector] = []

    def visit(node: Expr) -> bool:
        if isinstance(node, VectorSelector):
            found.append(node)
        return True

    try:
        promql_parser.walk(promql_parser.parse(expression), visit)
    except ValueError as error:
        raise CheckFailed(f"{expression!r} is no PromQL: {error}") from error
    return found


def series(selector: VectorSelector) -> str:
    """A selector as an expression of its own, at this moment."""
    return str(selector).partition(" offset ")[0]


def metric_names(expression: str) -> set[str]:
    """The names of all metrics in an expression."""
    return {selector.name or "" for selector in selectors(expression)}
