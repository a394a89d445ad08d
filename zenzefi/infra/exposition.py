"""The metrics of all processes as Prometheus' text, by aioprometheus, which leaves the escaping to its callers."""

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, TypeAlias

from aioprometheus import collectors
from aioprometheus.formats.text import TEXT_CONTENT_TYPE, TextFormatter
from aioprometheus.histogram import Histogram as Buckets

from zenzefi.infra.metrics import AnyMetric, Kind, Registry

CONTENT_TYPE: Final = TEXT_CONTENT_TYPE
PROCESS_LABEL: Final = "process"

_Samples: TypeAlias = dict[tuple[str, ...], list[float]]
_COLLECTORS: Final = {
    Kind.COUNTER: collectors.Counter,
    Kind.GAUGE: collectors.Gauge,
    Kind.HISTOGRAM: collectors.Histogram,
}


def render(registry: Registry) -> Iterator[str]:
    """The text, a piece per metric, so that whoever joins them may do other things in between."""
    samples = _collect(registry)
    for name, metric in registry.metrics.items():
        if samples[name]:
            yield _render(metric, samples[name])


def escape_value(text: str) -> str:
    """A label's value as it stands between its quotes."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no UTF-8
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def escape_help(text: str) -> str:
    """A metric's description as it stands in its HELP line."""
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _collect(registry: Registry) -> dict[str, _Samples]:
    collected: dict[str, _Samples] = {name: {} for name in registry.metrics}
    for number, is_alive, area in registry.areas():
        for key, values in area.entries():
            kind, name, labels, bounds = _parse(key)
            metric = registry.metrics.get(name)
            # Else it was counted by another version of the program, which declares it differently.
            if metric is None or (kind, len(labels), bounds) != _shape(metric):
                continue
            samples = collected[name]
            if not metric.per_process:
                before = samples.get(labels)
                samples[labels] = values if before is None else [a + b for a, b in zip(before, values, strict=True)]
            elif is_alive and not math.isnan(values[0]):
                samples[*labels, str(number)] = values
    return collected


def _shape(metric: AnyMetric) -> tuple[str, int, tuple[float, ...]]:
    return metric.kind, len(metric.label_names), metric.bounds


@lru_cache(maxsize=16_384)
def _parse(key: bytes) -> tuple[str, str, tuple[str, ...], tuple[float, ...]]:
    kind, name, labels, bounds = json.loads(key)
    return kind, name, tuple(labels), tuple(bounds)


def _render(metric: AnyMetric, samples: _Samples) -> str:
    registry = collectors.Registry()  # of its own: the library's default one is shared by the whole process
    collector = _COLLECTORS[metric.kind](metric.name, escape_help(metric.text), registry=registry)
    names = (*metric.label_names, PROCESS_LABEL) if metric.per_process else metric.label_names
    for values, numbers in sorted(samples.items()):
        labels = {name: escape_value(value) for name, value in zip(names, values, strict=True)}
        collector.set_value(labels, _buckets(metric, numbers) if metric.bounds else numbers[0])
    return TextFormatter().marshall_collector(collector) + "\n"


def _buckets(metric: AnyMetric, numbers: list[float]) -> Buckets:
    buckets = Buckets(*metric.bounds)
    total, *counts = numbers
    seen = 0.0
    for bound, count in zip(buckets.buckets, counts, strict=True):
        seen += count
        buckets.buckets[bound] = int(seen)
    buckets.sum, buckets.observations = total, int(seen)
    return buckets
