"""How many users there are at a moment of a load test. Pure."""

from loadtest.plan import Plan, Shape

_RAMP_STEPS = 10
_SOAK_RISE_S = 60.0
# A steady load rises in this part of its time, at most in so many seconds: what is counted begins afterwards.
_RISE_SHARE, _LONGEST_RISE_S = 1 / 6, 10.0
# Of a spike: how much of the users is there outside of it, and when it begins and ends.
_QUIET_SHARE, _SPIKE_FROM, _SPIKE_UNTIL = 0.1, 0.4, 0.6


def users_at(plan: Plan, elapsed_s: float) -> tuple[int, float] | None:
    """The users of that moment, and how many of them may come in a second; None when the test is over.

    ``steady`` has all of them for its whole time once they have come, ``ramp`` climbs to all in ten equal steps,
    ``spike`` has a tenth of them but for a fifth of its time, and ``soak`` climbs for a minute at most, then stays.
    """
    share, rise_s = 1.0, 1.0
    if plan.shape is Shape.STEADY:
        rise_s = min(plan.seconds * _RISE_SHARE, _LONGEST_RISE_S)
        elapsed_s -= rise_s
    elif plan.shape is Shape.RAMP:
        share = (int(elapsed_s / plan.seconds * _RAMP_STEPS) + 1) / _RAMP_STEPS
    elif plan.shape is Shape.SPIKE and not _SPIKE_FROM <= elapsed_s / plan.seconds < _SPIKE_UNTIL:
        share = _QUIET_SHARE
    elif plan.shape is Shape.SOAK:
        share = min((elapsed_s + 1) / min(_SOAK_RISE_S, plan.seconds / 2), 1.0)
    if elapsed_s >= plan.seconds:
        return None
    users = max(round(plan.users * share), 1)
    return users, max(users / rise_s, 1.0)
