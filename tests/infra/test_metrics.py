"""Metrics: what is counted is shown, escaped, bounded, and outlives the processes that counted it."""

import ast
import inspect
import os
import signal
import subprocess
import sys
from bisect import bisect_left
from collections import Counter as Tally
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import unhurried
from tests.support.exposition import parse, total
from tests.support.serving import ROOT
from zenzefi.infra import business_instruments, instruments, state_instruments
from zenzefi.infra.cells import AREA_BYTES, make_shared_file
from zenzefi.infra.exposition import render
from zenzefi.infra.metrics import Label, Metric, Registry


def text_of(registry: Registry) -> str:
    return "".join(render(registry))


@unhurried
@given(st.text(), st.text(), st.text().filter(lambda text: "\r" not in text))
def test_any_text_is_escaped(first: str, second: str, description: str) -> None:
    registry = Registry()
    metric = registry.counter("hits_total", description, Label("first", [first]), Label("second", [second]))
    metric.labels(first, second).inc(2)
    shown = {name: text.encode("utf-8", "replace").decode() for name, text in (("first", first), ("second", second))}
    assert parse(text_of(registry)) == {("hits_total", frozenset(shown.items())): 2.0}


@unhurried
@given(st.lists(st.tuples(st.sampled_from(["GET", "POST", "BREW"]), st.integers(190, 210)), min_size=1, max_size=50))
def test_undeclared_values_count_as_the_fallback(requests: list[tuple[str, int]]) -> None:
    registry = Registry()
    metric = registry.counter("hits_total", "Hits", Label("method", ["GET", "POST"]), Label("code", {200, 201}))
    for request in requests:
        metric.labels(*request).inc()
    expected = Tally(
        (method if method != "BREW" else "other", str(code) if code in (200, 201) else "other")
        for method, code in requests
    )
    found = {(dict(labels)["method"], dict(labels)["code"]): n for (_, labels), n in parse(text_of(registry)).items()}
    assert {labels: n for labels, n in found.items() if n} == expected
    assert set(found) - set(expected) <= set(product(("GET", "POST"), ("200", "201"))), "shown before they count"


def test_a_child_is_asked_for_with_all_labels_of_its_metric() -> None:
    metric = Registry().counter("hits_total", "Hits", Label("method", ["GET"]))
    for values in ((), ("GET", "x")):
        with pytest.raises(ValueError, match="argument"):
            metric.labels(*values)


def test_declarations_against_the_conventions_are_refused() -> None:
    registry = Registry()
    registry.gauge("taken", "Taken")
    for declare in (
        lambda: registry.counter("hits", "No _total"),
        lambda: registry.gauge("hits_total", "A gauge that ends in _total"),
        lambda: registry.gauge("Bad-Name", "No name"),
        lambda: registry.gauge("taken", "There is one"),
        lambda: registry.histogram("seconds", "No bounds", bounds=()),
        lambda: registry.histogram("seconds", "Not growing", bounds=(1.0, 1.0)),
        lambda: Label("le"),
        lambda: Label('a"b'),
    ):
        with pytest.raises(ValueError, match=r"."):
            declare()


@unhurried
@given(st.lists(st.floats(-10, 10)))
def test_buckets_count_all_values_up_to_their_bound(values: list[float]) -> None:
    registry = Registry()
    bounds = (-1.0, 0.0, 0.5, 4.0)
    metric = registry.histogram("seconds", "Seconds", bounds=bounds)
    for value in values:
        metric.labels().observe(value)
    samples = parse(text_of(registry))
    for bound in bounds:
        assert total(samples, "seconds_bucket", le=str(bound)) == sum(value <= bound for value in values)
    assert total(samples, "seconds_bucket", le="+Inf") == total(samples, "seconds_count") == len(values)
    assert total(samples, "seconds_sum") == pytest.approx(sum(values))
    assert bisect_left(bounds, 0.0) == 1, "a bound belongs to its own bucket"


def declare() -> Registry:
    registry = Registry()
    registry.counter("hits_total", "Hits", Label("method", ["GET"]))
    registry.gauge("size", "Size")
    registry.histogram("seconds", "Seconds", bounds=(1.0,))
    return registry


# Another process with the same metrics: counts, says so, and lives until it is killed.
_PROCESS = f"""
import sys
from zenzefi.infra.metrics import Label, Registry
{inspect.getsource(declare)}
registry = declare()
registry.share(int(sys.argv[1]))
registry.metrics["hits_total"].labels("GET").inc(int(sys.argv[2]))
registry.metrics["size"].labels().set(int(sys.argv[2]))
registry.metrics["seconds"].labels().observe(0.5)
print("counted", flush=True)
sys.stdin.read()
"""


def start_process(shared: int, hits: int) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", _PROCESS, str(shared), str(hits)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[shared],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"counted\n"
    return process


def end_process(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_counters_outlive_killed_processes_and_gauges_do_not() -> None:
    shared = make_shared_file(2)
    registry = declare()
    registry.metrics["hits_total"].labels("GET").inc(100)  # type: ignore[union-attr]
    registry.share(shared)
    first, second = start_process(shared, 1), start_process(shared, 10)
    samples = parse(text_of(registry))
    assert total(samples, "hits_total") == 111
    assert total(samples, "seconds_count") == 2
    assert {dict(labels)["process"]: n for (name, labels), n in samples.items() if name == "size"} == {"1": 1, "2": 10}
    end_process(first)
    samples = parse(text_of(registry))
    assert total(samples, "hits_total") == 111
    assert {dict(labels)["process"]: n for (name, labels), n in samples.items() if name == "size"} == {"2": 10}
    for _ in range(4):  # as many as there are areas left would not do, if each took a new one
        end_process(start_process(shared, 1000))
    third = start_process(shared, 5000)
    samples = parse(text_of(registry))
    assert total(samples, "hits_total") == 9111
    assert {dict(labels)["process"]: n for (name, labels), n in samples.items() if name == "size"} == {
        "1": 5000,
        "2": 10,
    }
    for process in (second, third):
        end_process(process)
    os.close(shared)


def test_what_another_version_counts_differently_is_left_out() -> None:
    shared = make_shared_file(1)
    end_process(start_process(shared, 7))
    other = Registry()
    other.counter("hits_total", "Hits", Label("method", ["GET"]), Label("code", [200]))
    other.histogram("seconds", "Seconds", bounds=(1.0, 2.0))
    other.share(shared)
    samples = parse(text_of(other))
    assert total(samples, "hits_total") == 0
    assert total(samples, "seconds_count") == 0
    os.close(shared)


def test_a_full_area_loses_new_series_and_nothing_else() -> None:
    registry = Registry()
    names = [str(number) for number in range(AREA_BYTES // 64)]
    metric = registry.counter("hits_total", "Hits", Label("name", names))
    for name in names:
        metric.labels(name).inc()
    samples = parse(text_of(registry))
    assert 1000 < len(samples) < len(names)
    assert set(samples.values()) == {1.0}


def test_names_of_the_product_follow_the_conventions() -> None:
    for name, metric in instruments.REGISTRY.metrics.items():
        assert name.startswith(("zenzefi_", "process_")), name
        assert metric.text, name
        assert not metric.bounds or name.endswith("_seconds"), name
        assert len(metric.bounds) <= 11, name


def test_every_instrument_is_measured_with() -> None:
    declared = {
        name: metric.name
        for module in (instruments, business_instruments, state_instruments)
        for name, metric in vars(module).items()
        if isinstance(metric, Metric)
    }
    assert set(declared.values()) == set(instruments.REGISTRY.metrics), "one of them is declared elsewhere"
    used: set[str] = set()
    for path in (*(ROOT / "zenzefi").rglob("*.py"), *(ROOT / "workers").rglob("*.py")):
        if path.name.endswith("instruments.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, ast.Attribute):
                used.add(node.attr)
    assert {name for name in declared if name not in used} == set()


def test_a_process_without_an_area_of_its_own_still_tells_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = make_shared_file(1)
    first = start_process(shared, 7)
    registry = declare()
    with monkeypatch.context() as patched:
        patched.setattr("zenzefi.infra.cells.fcntl.lockf", _refuse)
        registry.share(shared)
    registry.metrics["hits_total"].labels("GET").inc(100)  # type: ignore[union-attr]
    assert total(parse(text_of(registry)), "hits_total") == 7
    end_process(first)
    os.close(shared)


def _refuse(*_: object) -> None:
    raise BlockingIOError
