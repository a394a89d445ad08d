"""What a load test does is decided by variables, and how it ends by thresholds."""

import pytest

from loadtest.plan import DEFAULT_WEIGHTS, Plan
from loadtest.shapes import users_at
from zenzefi.environment import SettingsError


def test_a_plan_comes_from_variables() -> None:
    plan = Plan.from_env({"LOADTEST_USERS": "7", "LOADTEST_WEIGHTS": "purchase=0.5, sign_in=0", "PORT": "8080"})
    assert (plan.users, plan.url, plan.weights["purchase"]) == (7, "http://127.0.0.1:8080", 50)
    assert plan.weights["balance"] * 2 == plan.weights["my_tokens"]
    assert "sign_in" not in plan.weights
    assert Plan.from_env({}).weights.keys() == DEFAULT_WEIGHTS.keys()


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
    plan = Plan.from_env({"LOADTEST_SHAPE": shape, "LOADTEST_USERS": "100", "LOADTEST_SECONDS": "600"})
    moments = (0, 11, 23, 35, 47, 59) if shape == "soak" else (0, 120, 240, 360, 480, 599)
    found = [users_at(plan, elapsed_s) for elapsed_s in moments]
    assert [moment and moment[0] for moment in found] == [pytest.approx(number, abs=1) for number in users]
    assert users_at(plan, 610) is None


def test_a_steady_load_is_counted_for_its_whole_time_after_all_have_come() -> None:
    plan = Plan.from_env({"LOADTEST_USERS": "100", "LOADTEST_SECONDS": "600"})
    assert users_at(plan, 0) == (100, 10.0)
    assert users_at(plan, 609) is not None
