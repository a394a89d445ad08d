"""What is kept and what goes: properties of the rule, and years of nights."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zenzefi.backups.retention import CLOCK_TOLERANCE, Entry, Policy, decide

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)  # in Berlin the clocks have just been put forward
DEFAULT = Policy(
    keep_days=30, keep_daily=0, keep_weekly=0, keep_monthly=0, keep_verified=7, timezone=ZoneInfo("Europe/Berlin")
)
COUNTS = ("keep_days", "keep_daily", "keep_weekly", "keep_monthly", "keep_verified")

policies = st.builds(
    Policy,
    keep_days=st.integers(1, 60),
    keep_daily=st.integers(0, 40),
    keep_weekly=st.integers(0, 20),
    keep_monthly=st.integers(0, 20),
    keep_verified=st.integers(1, 12),
    timezone=st.sampled_from([ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "Pacific/Apia", "America/St_Johns")]),
)


@st.composite
def histories(draw: st.DrawFn, *, future: bool = False) -> list[Entry]:
    """Any backups of the last three years, in any order."""
    ages_h = draw(st.lists(st.integers(-60 * 24 if future else 0, 3 * 365 * 24), max_size=40))
    states = draw(st.lists(st.sampled_from("vfu"), min_size=len(ages_h), max_size=len(ages_h)))
    return [
        _entry(i, NOW - timedelta(hours=age), state) for i, (age, state) in enumerate(zip(ages_h, states, strict=True))
    ]


def _entry(number: int, made_at: datetime, state: str = "v") -> Entry:
    return Entry(backup_id=f"{number:04}", made_at=made_at, is_verified=state == "v", is_failed=state == "f")


def _newest_verified(entries: list[Entry]) -> list[str]:
    verified = [entry for entry in entries if entry.is_verified]
    return [entry.backup_id for entry in sorted(verified, key=lambda e: (e.made_at, e.backup_id), reverse=True)]


@given(entries=histories(future=True), policy=policies)
def test_what_must_stay_stays_and_the_rest_is_accounted_for(entries: list[Entry], policy: Policy) -> None:
    verdict = decide(entries, policy=policy, now=NOW)
    ids = sorted(entry.backup_id for entry in entries)
    assert sorted([*verdict.prune, *verdict.keep]) == ids
    assert set(_newest_verified(entries)[: policy.keep_verified]) <= set(verdict.keep)
    made_at = {entry.backup_id: entry.made_at for entry in entries}
    assert all(made_at[gone] < NOW - timedelta(days=policy.keep_days) for gone in verdict.prune)
    assert all(made_at[first] <= made_at[second] for first, second in pairwise(verdict.prune)), "the oldest goes first"
    if any(entry.made_at > NOW + CLOCK_TOLERANCE for entry in entries):
        assert verdict.prune == ()
        assert verdict.frozen


@given(entries=histories(), policy=policies, shuffled=st.randoms(use_true_random=False))
def test_the_order_of_the_list_and_a_second_run_change_nothing(
    entries: list[Entry], policy: Policy, shuffled: Random
) -> None:
    verdict = decide(entries, policy=policy, now=NOW)
    kept = [entry for entry in entries if entry.backup_id in verdict.keep]
    assert decide(kept, policy=policy, now=NOW).prune == ()
    shuffled.shuffle(entries)
    assert decide(entries, policy=policy, now=NOW) == verdict


@given(entries=histories(), policy=policies, count=st.sampled_from(COUNTS), more=st.integers(1, 30))
def test_a_greater_count_never_deletes_more(entries: list[Entry], policy: Policy, count: str, more: int) -> None:
    greater = replace(policy, **{count: getattr(policy, count) + more})
    assert set(decide(entries, policy=greater, now=NOW).prune) <= set(decide(entries, policy=policy, now=NOW).prune)


@given(entries=histories(), policy=policies, failed_at_h=st.integers(0, 3 * 365 * 24))
def test_a_failed_backup_takes_the_place_of_none(entries: list[Entry], policy: Policy, failed_at_h: int) -> None:
    failed = _entry(9999, NOW - timedelta(hours=failed_at_h), "f")
    before, after = (decide(each, policy=policy, now=NOW) for each in (entries, [*entries, failed]))
    assert set(after.prune) - {failed.backup_id} == set(before.prune)


@given(entries=histories(), policy=policies)
def test_of_each_of_the_last_days_weeks_and_months_the_last_usable_stays(entries: list[Entry], policy: Policy) -> None:
    verdict = decide(entries, policy=policy, now=NOW)
    usable = [entry for entry in entries if not entry.is_failed]
    for count, form in ((policy.keep_daily, "%Y-%m-%d"), (policy.keep_weekly, "%G-%V"), (policy.keep_monthly, "%Y-%m")):
        periods: dict[str, list[Entry]] = {}
        for entry in usable:
            periods.setdefault(entry.made_at.astimezone(policy.timezone).strftime(form), []).append(entry)
        for period in sorted(periods, reverse=True)[:count]:
            last = max(periods[period], key=lambda e: (e.is_verified, e.made_at, e.backup_id))
            assert last.backup_id in verdict.keep


def test_nothing_goes_while_nothing_is_verified() -> None:
    entries = [_entry(night, NOW - timedelta(days=night), "u" if night % 2 else "f") for night in range(100)]
    verdict = decide(entries, policy=DEFAULT, now=NOW)
    assert (verdict.prune, verdict.frozen) == ((), "no backup is verified")


@pytest.mark.parametrize("states", ["f", "u"])
def test_forty_days_of_failures_keep_the_newest_verified(states: str) -> None:
    """B4: whether the nights end as failed or as never looked at."""
    history: dict[str, Entry] = {}
    for night in range(100 + 40):
        now = NOW + timedelta(days=night)
        entry = _entry(night, now, "v" if night < 100 else states)
        history[entry.backup_id] = entry
        verdict = decide(history.values(), policy=DEFAULT, now=now)
        assert verdict.frozen is None
        for gone in verdict.prune:
            del history[gone]
        assert "0099" in history or night < 99
        assert sum(entry.is_verified for entry in history.values()) >= min(night + 1, 7)
    assert sorted(backup_id for backup_id, entry in history.items() if entry.is_verified) == [
        f"{night:04}" for night in range(93, 100)
    ]


@pytest.mark.parametrize("days", [60, -60])
def test_a_clock_that_is_sixty_days_off_costs_no_verified_backup_that_matters(days: int) -> None:
    """B4: forward, the seven newest verified stay; back, or forward and back again, nothing goes at all."""
    history = [_entry(night, NOW - timedelta(days=night)) for night in range(30)]
    off = NOW + timedelta(days=days)
    verdict = decide(history, policy=DEFAULT, now=off)
    if days < 0:
        assert verdict.prune == ()
        assert "dated 2026-03-29T01:30:00+00:00" in (verdict.frozen or "")
        return
    assert sorted(verdict.keep) == [f"{night:04}" for night in range(7)]
    made_meanwhile = _entry(100, off)
    assert decide([*history, made_meanwhile], policy=DEFAULT, now=NOW).prune == ()
