"""What a benchmark is given and what it gives back."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from loadtest.servers import Servers


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number. ``ratio`` is its share of what was measured beside it, which ``method`` names."""

    name: str
    value: float
    unit: str
    method: str
    ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a benchmark is given: real servers, a folder of its own that is gone afterwards, and a voice.

    A ``quick`` run shows that the benchmark works, in a few seconds; its figures are not kept.
    """

    servers: Servers
    directory: Path
    quick: bool
    tell: Callable[[str], None]


# Each module of loadtest.benchmarks has a function of this kind named run; its docstring says what it measures.
Benchmark: TypeAlias = Callable[[Bench], list[Figure] | Awaitable[list[Figure]]]
