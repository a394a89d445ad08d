"""When jobs are due: intervals that all workers agree on, and a time of day once on each date of its zone."""

from collections import Counter
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from workers.timetable import Daily, Every

BERLIN = ZoneInfo("Europe/Berlin")


def test_workers_agree_on_the_instants_of_an_interval() -> None:
    every = Every(period_s=50.0)
    looks = [datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC) + timedelta(seconds=0.1 * step) for step in range(1500)]
    instants = {every.latest(look) for look in looks}
    assert {instant.timestamp() % 50 for instant in instants} == {0.0}
    assert len(instants) == 3
    assert all(timedelta(0) <= look - every.latest(look) < timedelta(seconds=50) for look in looks)


def test_an_offset_moves_every_instant() -> None:
    hourly = Every(period_s=3600, offset_s=22 * 60)
    assert hourly.latest(datetime(2026, 5, 1, 7, 21, 59, tzinfo=UTC)) == datetime(2026, 5, 1, 6, 22, tzinfo=UTC)
    assert hourly.latest(datetime(2026, 5, 1, 7, 22, 0, tzinfo=UTC)) == datetime(2026, 5, 1, 7, 22, tzinfo=UTC)


def test_a_time_that_is_skipped_is_due_once_and_as_much_later() -> None:
    """On 29 March 2026 clocks in Berlin go from 02:00 to 03:00: there is no 02:30."""
    due = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    daily = Daily(at=time(2, 30), zone=BERLIN)
    assert daily.latest(due) == due
    assert daily.latest(due - timedelta(microseconds=1)) == datetime(2026, 3, 28, 1, 30, tzinfo=UTC)
    assert daily.latest(due + timedelta(hours=22, minutes=59)) == due
    assert daily.latest(due + timedelta(hours=23)) == datetime(2026, 3, 30, 0, 30, tzinfo=UTC)


def test_a_time_that_comes_twice_is_due_the_first_time() -> None:
    """On 25 October 2026 clocks in Berlin go back from 03:00 to 02:00: there are two 02:30."""
    due = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    daily = Daily(at=time(2, 30), zone=BERLIN)
    for later in (timedelta(0), timedelta(hours=1), timedelta(hours=24)):
        assert daily.latest(due + later) == due
    assert daily.latest(due + timedelta(hours=25)) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "at"),
    [
        ("UTC", time(3)),
        ("Europe/Berlin", time(2, 30)),
        ("America/New_York", time(1, 30)),
        ("Australia/Lord_Howe", time(2, 15)),  # moves by half an hour
        ("America/Santiago", time(0, 30)),  # skips the first hour of a date
    ],
)
def test_it_is_due_exactly_once_on_every_date(zone: str, at: time) -> None:
    daily = Daily(at=at, zone=ZoneInfo(zone))
    begin = datetime(2026, 1, 1, 12, tzinfo=UTC)
    instants = {daily.latest(begin + timedelta(minutes=15 * quarter)) for quarter in range(366 * 96)}
    dates = Counter(instant.astimezone(daily.zone).date() for instant in instants if instant > begin)
    assert set(dates.values()) == {1}
    assert (max(dates) - min(dates)).days == len(dates) - 1 >= 364
