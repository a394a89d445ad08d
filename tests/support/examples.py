"""Hypothesis on a machine that may stand still for a second: an example is never wrong for the time that it took."""

from hypothesis import HealthCheck, settings

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
