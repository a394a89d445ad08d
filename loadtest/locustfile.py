"""The journeys of real users, for Locust: `locust -f loadtest/locustfile.py --headless` from the project's folder.

`make loadtest` does it all; loadtest/README.md has the variables. The people come from LOADTEST_PEOPLE_FILE, or are
made in the database that the product's variables name. Each request is one of the next person: the product's limits,
which count by user and by token, stay on and are not met.

Of the product it imports next to nothing, so that it also runs where only Locust is installed.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from locust import FastHttpUser, LoadTestShape, constant_throughput, events
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtest.people import Person, load_people
from loadtest.plan import Plan
from loadtest.shapes import users_at
from zenzefi.environment import SettingsError

API = "/api/v1"
try:
    PLAN = Plan.from_env(os.environ)
except SettingsError as error:
    sys.exit(f"error: {error}")


class Crowd:
    """All people, one after another, over and over."""

    def __init__(self) -> None:
        """Nobody yet."""
        self._people: Iterator[Person] | None = None

    def gather(self) -> None:
        """Make or read them, once: before the first user comes."""
        if self._people is None:
            people = load_people(_people_lines())
            random.shuffle(people)
            self._people = cycle(people)

    def next(self) -> Person:
        """The next one."""
        assert self._people is not None, "test_start comes before the users"
        return next(self._people)


CROWD = Crowd()


def _people_lines() -> str:
    if PLAN.people_file:
        return Path(PLAN.people_file).read_text(encoding="utf-8")
    command = [sys.executable, "-m", "loadtest.seed", "--count", str(PLAN.people)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603


class Customer(FastHttpUser):
    """Signs in, then does what customers do, so many times a second."""

    host = PLAN.url
    wait_time = constant_throughput(PLAN.per_user_per_second)

    def on_start(self) -> None:
        """Begin the session."""
        self.sign_in()

    def sign_in(self) -> None:
        """Check a password; the limit of sign-ins by address, which all of these share, may say no."""
        person = CROWD.next()
        body = {"email": person.email, "password": person.password}
        with self.client.post(f"{API}/auth/login", json=body, name="sign in", catch_response=True) as response:
            if response.status_code == 429:
                response.request_meta["name"] = "sign in, refused by the limit"
                response.success()

    def balance(self) -> None:
        """Look at the wallet."""
        self.client.get(f"{API}/currency/balance", headers=CROWD.next().api_headers, name="balance")

    def my_tokens(self) -> None:
        """Look at one's tokens."""
        self.client.get(f"{API}/tokens/my-tokens", headers=CROWD.next().api_headers, name="my tokens")

    def health(self) -> None:
        """Ask whether the service is well."""
        self.client.get("/health", name="health")

    def purchase(self) -> None:
        """Buy a token, as a careful client does: so that a repetition would not buy another."""
        headers = {**CROWD.next().api_headers, "Idempotency-Key": f"load-{random.getrandbits(128):032x}"}
        self.client.post(f"{API}/tokens/purchase", json={"duration_hours": 1}, headers=headers, name="purchase")

    def proxy_small(self) -> None:
        """Send a small request through the gateway."""
        self._proxy(PLAN.small_path, "proxy, small")

    def proxy_large(self) -> None:
        """Fetch something large through the gateway."""
        self._proxy(PLAN.large_path, "proxy, large")

    def _proxy(self, path: str, name: str) -> None:
        self.client.get(f"{API}/proxy{path}", headers=CROWD.next().gateway_headers, name=name)


_JOURNEYS: dict[str, Callable[[Customer], None]] = {name: getattr(Customer, name) for name in PLAN.weights}
Customer.tasks = [task for name, task in _JOURNEYS.items() for _ in range(PLAN.weights[name])]


class PlannedShape(LoadTestShape):
    """As many users as the plan has at each moment; Locust uses whatever shape it finds here."""

    _began_at_s: float | None = None  # the clock runs from the first question

    def tick(self) -> tuple[int, float] | None:
        """The users of this moment, and how many may come in a second; None ends the test."""
        now_s = time.monotonic()
        if self._began_at_s is None:
            self._began_at_s = now_s
        return users_at(PLAN, now_s - self._began_at_s)


def prepare(**_: Any) -> None:
    """Have the people ready before the clock runs."""
    CROWD.gather()


def judge(environment: Environment, **_: Any) -> None:
    """Say which thresholds were missed, and fail by the exit code."""
    if isinstance(environment.runner, WorkerRunner):
        return  # the master has everybody's figures
    total = environment.stats.total
    missed = ["no request was made"]
    if total.num_requests:
        p50_ms, p95_ms, p99_ms = (total.get_response_time_percentile(share) for share in (0.5, 0.95, 0.99))
        missed = PLAN.thresholds.missed(
            p50_ms=p50_ms,
            p95_ms=p95_ms,
            p99_ms=p99_ms,
            error_percent=100 * total.fail_ratio,
            per_second=total.total_rps,
        )
    for sentence in missed:
        print(f"Missed: {sentence}.", file=sys.stderr)  # noqa: T201  for a person or a build's log
    environment.process_exit_code = 1 if missed else 0


hooks: Any = events  # Locust's own have no types
hooks.test_start.add_listener(prepare)
hooks.quitting.add_listener(judge)
