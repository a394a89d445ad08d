"""The circuit breaker on a clock of the tests' own."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zenzefi.infra.breaker import BreakerState, CircuitBreaker


class ManualClock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def breaker(clock: ManualClock) -> CircuitBreaker:
    return CircuitBreaker(failure_threshold=3, open_s=2.0, clock=clock)


def fail(breaker: CircuitBreaker, *, times: int) -> None:
    for _ in range(times):
        assert breaker.allow()
        breaker.record_failure()


def test_it_opens_at_the_threshold_and_not_before(breaker: CircuitBreaker) -> None:
    fail(breaker, times=3)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allow()
    assert breaker.retry_after_s == 2.0


def test_a_success_forgets_earlier_failures(breaker: CircuitBreaker) -> None:
    fail(breaker, times=2)
    assert breaker.allow()
    breaker.record_success()
    fail(breaker, times=2)
    assert breaker.state is BreakerState.CLOSED


def test_one_probe_is_let_through_after_the_pause(breaker: CircuitBreaker, clock: ManualClock) -> None:
    fail(breaker, times=3)
    clock.now_s += 1.999
    assert not breaker.allow()
    clock.now_s += 0.001
    assert breaker.state is BreakerState.HALF_OPEN
    assert [breaker.allow() for _ in range(5)] == [True, False, False, False, False]
    breaker.record_success()
    assert breaker.retry_after_s == 0.0
    assert [breaker.allow() for _ in range(5)] == [True] * 5


def test_a_failed_probe_starts_the_pause_anew(breaker: CircuitBreaker, clock: ManualClock) -> None:
    fail(breaker, times=3)
    clock.now_s += 2.0
    assert breaker.allow()
    clock.now_s += 0.5
    breaker.record_failure()
    assert breaker.state is BreakerState.OPEN
    assert breaker.retry_after_s == 2.0


def test_a_probe_that_never_reports_is_replaced(breaker: CircuitBreaker, clock: ManualClock) -> None:
    fail(breaker, times=3)
    clock.now_s += 2.0
    assert breaker.allow()
    clock.now_s += 1.9
    assert not breaker.allow()
    clock.now_s += 0.1
    assert breaker.allow()


def test_late_failures_of_earlier_calls_do_not_prolong_the_pause(breaker: CircuitBreaker, clock: ManualClock) -> None:
    fail(breaker, times=3)
    clock.now_s += 1.5
    breaker.record_failure()
    assert breaker.retry_after_s == 0.5


@pytest.mark.parametrize(("threshold", "open_s"), [(0, 1.0), (1, 0.0)])
def test_senseless_settings_are_refused(threshold: int, open_s: float) -> None:
    with pytest.raises(ValueError, match=r"at least 1|positive"):
        CircuitBreaker(failure_threshold=threshold, open_s=open_s)


class BreakerMachine(RuleBasedStateMachine):
    """Whatever the order of events, an open circuit lets at most one call through per pause."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.breaker = CircuitBreaker(failure_threshold=2, open_s=3.0, clock=self.clock)
        self.allowed_while_open: list[float] = []

    @rule(seconds=st.floats(min_value=0.0, max_value=5.0))
    def pass_time(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule()
    def ask(self) -> None:
        was_closed = self.breaker.state is BreakerState.CLOSED
        if self.breaker.allow() and not was_closed:
            self.allowed_while_open.append(self.clock.now_s)

    @rule()
    def fail(self) -> None:
        self.breaker.record_failure()

    @rule()
    def succeed(self) -> None:
        self.breaker.record_success()
        self.allowed_while_open.clear()

    @invariant()
    def probes_keep_their_distance(self) -> None:
        pairs = zip(self.allowed_while_open, self.allowed_while_open[1:], strict=False)
        assert all(later - earlier >= 3.0 - 1e-9 for earlier, later in pairs)

    @invariant()
    def a_closed_circuit_lets_calls_through(self) -> None:
        if self.breaker.state is BreakerState.CLOSED:
            assert self.breaker.allow()
            assert self.breaker.retry_after_s == 0.0


TestBreakerMachine = BreakerMachine.TestCase
