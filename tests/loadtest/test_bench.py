"""The frame of the benchmarks: what they measured is kept whole, and a load counts what it sent."""

import importlib
import inspect
import json
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from loadtest import bench, benchmarks
from loadtest.figures import Bench, Figure
from loadtest.load import get, send, send_once
from loadtest.results import BEGIN, END, TABLE, format_value, quote
from loadtest.servers import Servers
from tests.support.people import Person, gateway_headers


def _measure(bench: Bench) -> list[Figure]:
    bench.tell("measuring")
    (bench.directory / "scratch").write_text("gone afterwards")
    return [
        Figure(name="speed", value=1234.5, unit="req/s", method="one | two", ratio=0.5),
        Figure(name="size", value=0.0123, unit="MB", method="at once"),
    ]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a benchmark that measures nothing."""
    name = bench.NAMES[0]
    monkeypatch.setattr(importlib.import_module(f"{benchmarks.__name__}.{name}"), "run", _measure)
    return name


def test_each_benchmark_says_what_it_measures() -> None:
    assert bench.NAMES
    for name in bench.NAMES:
        module = importlib.import_module(f"{benchmarks.__name__}.{name}")
        assert inspect.getdoc(module), name
        assert list(inspect.signature(module.run).parameters) == ["bench"]


def test_figures_are_kept_with_what_they_were_measured_on(measured: str, tmp_path: Path) -> None:
    run = CliRunner().invoke(bench.main, [measured, "--output", str(tmp_path)], catch_exceptions=False)
    assert run.exit_code == 0
    result = json.loads((tmp_path / f"{measured}.json").read_text())
    assert (result["benchmark"], result["quick"]) == (measured, False)
    assert result["machine"]["cores"] >= 1
    assert result["versions"]["aiohttp"] == aiohttp.__version__
    assert [figure["value"] for figure in result["figures"]] == [1234.5, 0.0123]
    assert (tmp_path / TABLE).read_text() == run.stdout
    assert "| speed | 1,234 req/s | 0.5 | one \\| two |" in run.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{measured}.json", TABLE])


def test_a_quick_run_leaves_the_kept_figures_alone(
    measured: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    run = CliRunner().invoke(bench.main, [measured, "--quick"], catch_exceptions=False)
    assert "| size | 0.0123 MB |" in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_readme_quotes_the_headlines(measured: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "results"
    readme.write_text(f"Before.\n{BEGIN}\nold\n{END}\nAfter.\n")
    for name, value in {"RESULTS": results, "README": readme}.items():
        monkeypatch.setattr(bench, name, value)
    module = importlib.import_module(f"{benchmarks.__name__}.{measured}")
    monkeypatch.setattr(module, "HEADLINES", ("speed",), raising=False)
    CliRunner().invoke(bench.main, [measured], catch_exceptions=False)
    lines = readme.read_text().splitlines()
    assert (lines[:2], lines[-2:]) == (["Before.", BEGIN], [END, "After."])
    assert "old" not in lines
    (row,) = lines[4:-2]
    assert row.startswith(f"| {measured}: speed | 1,234 req/s (share 0.5) | one \\| two | ")


def test_a_readme_without_the_place_is_left_alone() -> None:
    with pytest.raises(ValueError, match="no place"):
        quote(f"text {BEGIN}", "table")
    assert BEGIN in bench.README.read_text()
    assert END in bench.README.read_text()


def test_servers_leave_nothing_behind() -> None:
    with Servers() as servers:
        directory = servers.directory
        server = servers.valkey.child
        assert directory.exists()
    assert not directory.exists()
    assert server.returncode is not None


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.00533, "0.00533"), (9.64, "9.64"), (254.3, "254"), (12345.6, "12,346")]
)
def test_numbers_have_the_digits_that_matter(value: float, text: str) -> None:
    assert format_value(value) == text


async def test_a_load_counts_answers_and_failures(app_url: str, person: Person) -> None:
    await person.top_up("1.00")
    headers = gateway_headers((await person.buy_token(1))["token"])
    url = f"{app_url}/api/v1/proxy"
    asked = [get(f"{url}/certificates/filter", headers=headers)] * 20
    good = await send_once(app_url, asked, connections=2)
    assert good.requests == len(good.latencies_s) == 20
    assert good.failures == 0
    bad = await send_once(app_url, [get(f"{url}/status/503", headers=headers)] * 10 + asked, connections=2)
    assert (bad.requests, bad.failures) == (30, 10)
    limited = await send(f"{url}/certificates/filter", headers=headers, connections=2, seconds=0.2)
    assert limited.requests == len(limited.latencies_s)
    assert limited.elapsed_s >= 0.2
    late = await send(f"{url}/certificates/filter", headers=headers, connections=2, seconds=0.0)
    assert late.requests == 2
