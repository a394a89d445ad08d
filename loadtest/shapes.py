"""How many users there are at a moment of a load test. Pure."""

from loadtest.plan import Plan, Shape

_RAMP_STEPS = 10
_SOAK_RISE_S = 60.0
# Of a spike test: how much of the users is there outside the spike, and when it begins and ends.
_QUIET_SHARE, _SPIKE_FROM, _SPIKE_UNTIL = 0.1, 0.4, 0.6


def users_at(plan: Plan, elapsed_s: float) -> int | None:
    """The users of that moment; None when the test is over.

    ``ramp`` climbs to all of them in ten equal steps, ``spike`` has a tenth of them but for a fifth of its time, and
    ``soak`` climbs for a minute at most, then stays.
    """
    if elapsed_s >= plan.seconds:
        return None
    share = 1.0
    if plan.shape is Shape.RAMP:
        share = (int(elapsed_s / plan.seconds * _RAMP_STEPS) + 1) / _RAMP_STEPS
    elif plan.shape is Shape.SPIKE and not _SPIKE_FROM <= elapsed_s / plan.seconds < _SPIKE_UNTIL:
        share = _QUIET_SHARE
    elif plan.shape is Shape.SOAK:
        share = min((elapsed_s + 1) / min(_SOAK_RISE_S, plan.seconds / 2), 1.0)
    return max(round(plan.users * share), 1)
