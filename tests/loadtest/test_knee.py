"""The knee is found from below and from above."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from loadtest import knee
from loadtest.figures import Bench
from loadtest.knee import PER_USER, Locusts
from loadtest.locusts import Counted
from loadtest.servers import Servers


@pytest.fixture
def locusts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Locusts:
    """Those of an installation that bears 60 users."""

    def run_locust(_variables: Mapping[str, str], *, directory: Path, users: int, seconds: int) -> Counted:
        assert directory == tmp_path
        return Counted(
            requests=users * PER_USER * seconds,
            failures=0,
            per_second=users * PER_USER,
            p50_ms=5,
            p95_ms=20 if users <= 60 else 300,
            p99_ms=400,
            busy=0.1,
        )

    monkeypatch.setattr(knee, "run_locust", run_locust)
    return Locusts(Bench(servers=Servers(), directory=tmp_path, quick=True, tell=lambda _: None), {})


@pytest.mark.parametrize(("first", "users"), [(20, 49), (100, 51), (60, 60)])
async def test_the_knee_is_the_most_users_that_are_borne(locusts: Locusts, first: int, users: int) -> None:
    found = await locusts.find_knee(users=first, seconds=1, most_steps=20)
    assert found.users == pytest.approx(users, abs=1)
    assert found.per_second == found.users * PER_USER
    assert any("p95 300 ms" in step for step in found.steps)


async def test_what_bears_nobody_has_no_knee(locusts: Locusts) -> None:
    found = await locusts.find_knee(users=1000, seconds=1, most_steps=2)
    assert (found.users, found.per_second, len(found.steps)) == (0, 0.0, 2)
