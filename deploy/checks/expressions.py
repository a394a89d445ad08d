"""Every expression of every panel and alert finds data in the running product, or is a documented zero."""

import asyncio
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from deploy.checks.failures import CheckFailed, require
from deploy.checks.files import read_panels, read_rules
from deploy.checks.prometheus import Prometheus
from deploy.checks.promql import fill_in, selectors, series

_ZEROS: Final = Path(__file__).with_name("documented_zeros.toml")
_PAUSE_S: Final = 1.0
# Ranges are at least four scrapes long in the real installation; here a scrape is a second.
_RATE_INTERVAL: Final = "20s"


@dataclass(frozen=True, slots=True)
class Question:
    """An expression, and where it stands."""

    where: str
    expression: str


async def check_expressions(prometheus: Prometheus, *, timeout_s: float) -> int:
    """Raise CheckFailed with each expression that finds nothing; returns how many there are.

    What is documented as a zero must find nothing: else the document is out of date.
    """
    zeros = {zero["expression"] for zero in tomllib.loads(_ZEROS.read_text(encoding="utf-8")).get("zero", ())}
    questions = list(_questions())
    require(
        sorted(zeros - {question.expression for question in questions}),
        what=f"Nothing asks for what {_ZEROS.name} lists",
    )
    wanted = [question for question in questions if question.expression not in zeros]
    deadline = asyncio.get_running_loop().time() + timeout_s
    async with aiohttp.ClientSession() as client:
        while True:
            wanted = [one for one in wanted if not await _has_data(prometheus, client, one.expression)]
            if not wanted or asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(_PAUSE_S)
        require((f"{one.where}: {one.expression}" for one in wanted), what="These expressions find no data")
        outdated = [zero for zero in sorted(zeros) if await _has_data(prometheus, client, zero)]
        require(outdated, what=f"These find data: take them out of {_ZEROS.name}")
    return len(questions)


def _questions() -> Iterator[Question]:
    """A panel's expression as it is; of a rule each selector by itself, for without trouble an alert finds nothing."""
    for panel in read_panels():
        for expression in panel.expressions:
            yield Question(panel.where, expression)
    seen: set[str] = set()
    for rule in read_rules():
        for selector in selectors(rule.expression):
            if series(selector) not in seen:
                seen.add(series(selector))
                yield Question(f"{rule.file}: {rule.name}", series(selector))


async def _has_data(prometheus: Prometheus, client: aiohttp.ClientSession, expression: str) -> bool:
    try:
        found = await prometheus.query(client, fill_in(expression, rate_interval=_RATE_INTERVAL))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CheckFailed(f"Prometheus did not answer {expression}: {error!r}") from error
    # A ratio of nothing to nothing is a series of NaN: a panel would be empty.
    return any(one["value"][1] != "NaN" for one in found)
