"""What a load test does is decided by variables, and how it ends by thresholds."""

import re
from pathlib import Path

import pytest

from loadtest import plan
from loadtest.plan import DEFAULT_WEIGHTS, Plan
from loadtest.shapes import users_at
from zenzefi.environment import SettingsError


def test_a_plan_comes_from_variables() -> None:
    parsed = Plan.from_env({"LOADTEST_USERS": "7", "LOADTEST_WEIGHTS": "purchase=0.5, sign_in=0", "PORT": "8080"})
    assert (parsed.users, parsed.url, parsed.weights["purchase"]) == (7, "http://127.0.0.1:8080", 50)
    assert parsed.weights["balance"] * 2 == parsed.weights["my_tokens"]
    assert "sign_in" not in parsed.weights
    assert Plan.from_env({}).weights.keys() == DEFAULT_WEIGHTS.keys()


def test_the_readme_has_every_variable() -> None:
    folder = Path(plan.__file__).parent
    read = {name for source in folder.glob("*.py") for name in re.findall(r'"(LOADTEST_\w+)"', source.read_text())}
    told = set(re.findall(r"^\| (`LOADTEST_[^|]*)\|", (folder / "README.md").read_text(), re.MULTILINE))
    assert {name.strip("` ") for names in told for name in names.split(",")} == read
    weights = ",".join(f"{name}={weight:g}" for name, weight in DEFAULT_WEIGHTS.items())
    assert f"`{weights}`" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOADTEST_WEIGHTS", "buy=1"),
        ("LOADTEST_WEIGHTS", "balance=-1"),
        ("LOADTEST_WEIGHTS", ",".join(f"{name}=0" for name in DEFAULT_WEIGHTS)),
        ("LOADTEST_USERS", "0"),
        ("LOADTEST_SHAPE", "wave"),
        ("LOADTEST_P95_MS", "-1"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Plan.from_env({name: value})


def test_each_threshold_that_is_missed_is_told() -> None:
    thresholds = Plan.from_env({"LOADTEST_LEAST_PER_SECOND": "1000"}).thresholds
    assert thresholds.missed(p50_ms=50, p95_ms=200, p99_ms=500, error_percent=0, per_second=1000) == []
    missed = thresholds.missed(p50_ms=51, p95_ms=201, p99_ms=501, error_percent=0.1, per_second=999)
    assert [sentence.split()[0] for sentence in missed] == ["p50", "p95", "p99", "0.1", "999"]


@pytest.mark.parametrize(
    ("shape", "users"),
    [
        ("steady", [100, 100, 100, 100, 100, 100]),
        ("ramp", [10, 30, 50, 70, 90, 100]),
        ("spike", [10, 10, 100, 10, 10, 10]),
        ("soak", [1, 20, 40, 60, 80, 100]),
    ],
)
def test_shapes_have_their_users_at_each_moment(shape: str, users: list[int]) -> None:
    parsed = Plan.from_env({"LOADTEST_SHAPE": shape, "LOADTEST_USERS": "100", "LOADTEST_SECONDS": "600"})
    moments = (0, 11, 23, 35, 47, 59) if shape == "soak" else (0, 120, 240, 360, 480, 599)
    found = [users_at(parsed, elapsed_s) for elapsed_s in moments]
    assert [moment and moment[0] for moment in found] == [pytest.approx(number, abs=1) for number in users]
    assert users_at(parsed, 610) is None


def test_a_steady_load_is_counted_for_its_whole_time_after_all_have_come() -> None:
    parsed = Plan.from_env({"LOADTEST_USERS": "100", "LOADTEST_SECONDS": "600"})
    assert users_at(parsed, 0) == (100, 10.0)
    assert users_at(parsed, 609) is not None
