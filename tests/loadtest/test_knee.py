"""The knee is found from below and from above, and Locust lives no longer than it is wanted."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from loadtest import knee
from loadtest.figures import Bench
from loadtest.knee import PER_USER, Locusts
from loadtest.locusts import Counted, run_locust
from loadtest.people import Person, dump_people
from loadtest.servers import Servers

NOBODY = Person(user_id="", email="", password="", jwt="", token="", device="")


@pytest.fixture
def locusts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Locusts]:
    """Those of an installation that bears 60 users."""

    async def run_locust(_variables: Mapping[str, str], *, directory: Path, users: int, seconds: int) -> Counted:
        assert directory == tmp_path
        return Counted(
            requests=users * PER_USER * seconds,
            failed={},
            per_second=users * PER_USER,
            p50_ms=5,
            p95_ms=20 if users <= 60 else 300,
            p99_ms=400,
            busy=0.1,
        )

    monkeypatch.setattr(knee, "run_locust", run_locust)
    with Servers() as servers:
        yield Locusts(Bench(servers=servers, directory=tmp_path, quick=True, tell=lambda _: None), {})


@pytest.mark.parametrize(("first", "users"), [(20, 49), (100, 51), (60, 60)])
async def test_the_knee_is_the_most_users_that_are_borne(locusts: Locusts, first: int, users: int) -> None:
    found = await locusts.find_knee(users=first, seconds=1, most_steps=20)
    assert found.users == pytest.approx(users, abs=1)
    assert found.per_second == found.users * PER_USER
    assert any("p95 300 ms" in step for step in found.steps)


async def test_what_bears_nobody_has_no_knee(locusts: Locusts) -> None:
    found = await locusts.find_knee(users=1000, seconds=1, most_steps=2)
    assert (found.users, found.per_second, len(found.steps)) == (0, 0.0, 2)


async def test_what_failed_is_told_by_its_name(tmp_path: Path) -> None:
    people = tmp_path / "people.jsonl"
    people.write_text(dump_people([NOBODY]))
    variables = {"LOADTEST_URL": "http://127.0.0.1:1", "LOADTEST_PEOPLE_FILE": str(people)}
    counted = await run_locust(variables, directory=tmp_path, users=1, seconds=2)
    assert counted.requests == counted.failures > 0
    told = counted.tell_failures()
    assert told.startswith(f"of {counted.requests} requests failed: ")
    assert all(f"{name} {count} times" in told for name, count in counted.failed.items())


async def test_locust_is_ended_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    people = tmp_path / "people.jsonl"
    people.write_text(dump_people([NOBODY]))
    variables = {"LOADTEST_URL": "http://127.0.0.1:1", "LOADTEST_PEOPLE_FILE": str(people)}
    loading = asyncio.create_task(run_locust(variables, directory=tmp_path, users=1, seconds=60))
    for _ in range(1500):
        children = [child for child in psutil.Process().children() if _is_locust(child)]
        if children:
            break
        await asyncio.sleep(0.02)
    assert children
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, 60)
    assert not alive


def _is_locust(process: psutil.Process) -> bool:
    try:
        return "locust" in process.cmdline()
    except psutil.NoSuchProcess:  # another test's, which has ended meanwhile
        return False
