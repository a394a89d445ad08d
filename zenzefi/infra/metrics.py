"""Metrics: declared once with all the values that their labels may take, and counted in well below a microsecond.

A metric has a child for each combination of label values; whoever counts often keeps the child. A label value that was
not declared counts as the label's fallback ("other"), so that no client can make up series. Counters and histograms are
those of the service: each process counts into memory of its own, and what is shown is the sum over all processes that
there have been (zenzefi.infra.cells), which never goes backwards. Gauges are those of one living process each, and
carry its number as the label ``process``.

How the text for Prometheus is made of it is in zenzefi.infra.exposition; what is measured, in
zenzefi.infra.instruments.
"""

import json
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator
from enum import StrEnum
from functools import partial
from itertools import product
from typing import Final, Generic, TypeAlias, TypeVar

import structlog

from zenzefi.infra.cells import Area, SharedAreas

LabelValues: TypeAlias = tuple[Hashable, ...]

OTHER: Final = "other"
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
# A counter of so few series has them all from the start.
_SHOWN_AT_ZERO: Final = 64
# The library refuses "job", Prometheus itself uses the others.
_RESERVED: Final = frozenset({"job", "instance", "le", "quantile", "process"})

log = structlog.get_logger(__name__)


class Kind(StrEnum):
    """What Prometheus calls it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Label:
    """A label and the values that it may take."""

    def __init__(self, name: str, values: Iterable[Hashable] = (), *, fallback: str = OTHER) -> None:
        """Take the values; whatever else comes counts as ``fallback``."""
        if _NAME.fullmatch(name) is None or name in _RESERVED:
            raise ValueError(f"{name!r} is no name for a label")
        self.name = name
        self.fallback = fallback
        self.values = {*values, fallback}

    def allow(self, values: Iterable[Hashable]) -> None:
        """Declare more values, such as the routes once they are known."""
        self.values.update(values)

    def bound(self, value: Hashable) -> Hashable:
        """The value if it was declared, else the fallback."""
        return value if value in self.values else self.fallback


class Counter:
    """A child that counts up."""

    __slots__ = ("at", "cells")

    def __init__(self) -> None:
        self.cells: memoryview[float]
        self.at: int

    def inc(self, amount: float = 1.0) -> None:
        """Add an amount that is not negative."""
        self.cells[self.at] += amount


class Gauge:
    """A child that goes up and down."""

    __slots__ = ("at", "cells")

    def __init__(self) -> None:
        self.cells: memoryview[float]
        self.at: int

    def set(self, value: float) -> None:
        """Replace the value."""
        self.cells[self.at] = value

    def inc(self, amount: float = 1.0) -> None:
        """Add an amount, which may be negative."""
        self.cells[self.at] += amount


class Histogram:
    """A child that counts values by size: the first cell is their sum, the next ones count per bucket."""

    __slots__ = ("at", "bounds", "cells")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.cells: memoryview[float]
        self.at: int
        self.bounds = bounds

    def observe(self, value: float) -> None:
        """Count a value."""
        cells, at = self.cells, self.at
        cells[at] += value
        cells[at + 1 + bisect_left(self.bounds, value)] += 1.0


Child = TypeVar("Child", Counter, Gauge, Histogram)


class Metric(Generic[Child]):
    """A declared metric; get children by ``labels``."""

    def __init__(
        self,
        registry: "Registry",
        kind: Kind,
        make: Callable[[], Child],
        *,
        name: str,
        text: str,
        labels: tuple[Label, ...],
        bounds: tuple[float, ...] = (),
        per_process: bool = False,
    ) -> None:
        """Take what Registry's methods have checked."""
        self.kind = kind
        self.name = name
        self.text = text
        self.label_names = tuple(label.name for label in labels)
        self.bounds = bounds
        self.per_process = per_process
        self.children: dict[LabelValues, Child] = {}
        self._make: Callable[[], Child] = make
        self._registry = registry
        self._labels = labels

    @property
    def label_count(self) -> int:
        """How many combinations of labels are declared, the fallbacks left out."""
        return math.prod(len(label.values) - 1 for label in self._labels)

    def show_all(self) -> None:
        """Have a child for each of them: a series that is born with its first event shows Prometheus no increase."""
        for values in product(*(sorted(label.values - {label.fallback}, key=str) for label in self._labels)):
            self.labels(*values)

    @property
    def size(self) -> int:
        """How many cells a child takes."""
        return len(self.bounds) + 2 if self.bounds else 1

    def labels(self, *values: Hashable) -> Child:
        """The child for these values, in the order of the declaration; undeclared ones count as the fallback."""
        child = self.children.get(values)
        if child is not None:
            return child
        bounded = tuple(label.bound(value) for label, value in zip(self._labels, values, strict=True))
        child = self.children.get(bounded)
        if child is None:
            child = self.children[bounded] = self._make()
            child.cells, child.at = self._registry.place(self, bounded)
        return child

    def key(self, values: LabelValues) -> bytes:
        """What names the child's cells, in every process and every version of the program that counts the same."""
        return json.dumps([self.kind, self.name, [str(value) for value in values], self.bounds]).encode()


AnyMetric: TypeAlias = Metric[Counter] | Metric[Gauge] | Metric[Histogram]


class Registry:
    """All metrics of a process, and the memory that they count in."""

    def __init__(self) -> None:
        self.metrics: dict[str, AnyMetric] = {}
        self._area = Area.private()
        self._shared: SharedAreas | None = None
        self._is_full = False

    def counter(self, name: str, text: str, *labels: Label, per_process: bool = False) -> Metric[Counter]:
        """Declare what only goes up; its name ends in ``_total``."""
        if not name.endswith("_total"):
            raise ValueError(f"the counter {name} does not end in _total")
        metric = Metric(self, Kind.COUNTER, Counter, name=name, text=text, labels=labels, per_process=per_process)
        self._add(metric)
        return metric

    def gauge(self, name: str, text: str, *labels: Label) -> Metric[Gauge]:
        """Declare what goes up and down, of each process by itself."""
        if name.endswith("_total"):
            raise ValueError(f"the gauge {name} ends in _total")
        metric = Metric(self, Kind.GAUGE, Gauge, name=name, text=text, labels=labels, per_process=True)
        self._add(metric)
        return metric

    def histogram(self, name: str, text: str, *labels: Label, bounds: tuple[float, ...]) -> Metric[Histogram]:
        """Declare what is counted by size; the bounds are the buckets' upper ones, without the infinite one."""
        if not bounds or list(bounds) != sorted(set(bounds)):
            raise ValueError(f"the bounds of {name} do not grow")
        make = partial(Histogram, bounds)
        metric = Metric(self, Kind.HISTOGRAM, make, name=name, text=text, labels=labels, bounds=bounds)
        self._add(metric)
        return metric

    def share(self, descriptor: int) -> None:
        """Count into memory that is shared with other processes from now on; see cells.make_shared_file."""
        self._shared = shared = SharedAreas(descriptor)
        try:
            area = shared.take()
        except BlockingIOError:
            # There are several times as many as processes; to serve without counting is better than not to serve.
            log.error("metrics_not_shared", reason="all areas are held")  # noqa: TRY400  the reason says all
            return
        for key, _ in area.entries():
            if key.startswith(b'["gauge"'):  # of a process that is gone; it shows again once this one sets it
                start = area.place(key, 1)
                assert start is not None
                area.cells[start] = math.nan
        self._area = area
        for metric in self.metrics.values():
            for values, child in metric.children.items():
                self._move(metric, values, child)

    def place(self, metric: AnyMetric, values: LabelValues) -> "tuple[memoryview[float], int]":
        """Cells for a child of a metric."""
        start = self._area.place(metric.key(values), metric.size)
        if start is None:
            if not self._is_full:
                self._is_full = True
                log.error("metrics_full", metric=metric.name, consequence="new series are not shown")
            return memoryview(bytearray(8 * metric.size)).cast("d"), 0
        if metric.kind is Kind.GAUGE:
            self._area.cells[start] = 0.0
        return self._area.cells, start

    def areas(self) -> Iterator[tuple[int, bool, Area]]:
        """The areas of all processes, of this one alone if nothing is shared: number, whether it lives, entries."""
        if self._shared is None:
            yield 0, True, self._area
        else:
            yield from self._shared.read()

    def _add(self, metric: AnyMetric) -> None:
        if _NAME.fullmatch(metric.name) is None or metric.name in self.metrics:
            raise ValueError(f"{metric.name!r} is no name for a metric, or there is one of that name")
        self.metrics[metric.name] = metric
        if not metric.label_names and metric.kind is not Kind.GAUGE:
            metric.labels()  # nothing counted is a 0 and not a gap
        if metric.kind is Kind.COUNTER and metric.label_count <= _SHOWN_AT_ZERO:
            metric.show_all()

    def _move(self, metric: AnyMetric, values: LabelValues, child: Counter | Gauge | Histogram) -> None:
        counted = child.cells[child.at : child.at + metric.size].tolist()
        child.cells, child.at = self.place(metric, values)
        for offset, value in enumerate(counted):
            child.cells[child.at + offset] += value
