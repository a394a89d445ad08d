"""The load that an installation bears: more and more users, until the answers come too late."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from loadtest.figures import Bench
from loadtest.locusts import Counted, run_locust
from loadtest.people import dump_people
from loadtest.seed import seed
from zenzefi.settings import Settings

# What one user asks for in a second.
PER_USER = 10
WORST_P95_MS = 200.0
# Less than this of what was asked for means that somebody cannot follow, whatever the times of the answers say.
_LEAST_ACHIEVED = 0.95
_GROWTH = 1.25
_FUNDS = Decimal("1000000.00")


@dataclass(frozen=True, slots=True, kw_only=True)
class Knee:
    """The most users that were borne, 0 when none were; what they got; and a line on each step that was tried."""

    users: int
    per_second: float
    locust_busy: float
    steps: tuple[str, ...]


class Locusts:
    """Loads one installation with people of its own."""

    def __init__(self, bench: Bench, variables: Mapping[str, str]) -> None:
        """Take what ``prepare_locusts`` made."""
        self._bench, self._variables = bench, variables

    async def load(self, *, users: int, seconds: int) -> Counted:
        """So many users for so many seconds, after all of them have come."""
        return await run_locust(self._variables, directory=self._bench.directory, users=users, seconds=seconds)

    async def find_knee(self, *, users: int, seconds: int, most_steps: int) -> "Knee":
        """The most users that the installation bears, in steps of a quarter from so many on: up, or down if need be."""
        knee = Knee(users=0, per_second=0.0, locust_busy=0.0, steps=())
        steps: list[str] = []
        has_failed = False
        while len(steps) < most_steps and users >= 1:
            self._bench.tell(f"looking for the knee: {users} users")
            counted = await self.load(users=users, seconds=seconds)
            steps.append(f"{users} users: {counted.per_second:.0f} req/s, p95 {counted.p95_ms:.0f} ms")
            if is_borne(counted, users=users):
                knee = Knee(users=users, per_second=counted.per_second, locust_busy=counted.busy, steps=())
                if has_failed:
                    break
                users = round(users * _GROWTH)
            else:
                has_failed = True
                if knee.users:
                    break
                users = min(round(users / _GROWTH), users - 1)
        return replace(knee, steps=tuple(steps))


def is_borne(counted: Counted, *, users: int) -> bool:
    """Whether all was answered in time, and as much as was asked for."""
    asked = users * PER_USER
    return counted.p95_ms <= WORST_P95_MS and not counted.failures and counted.per_second >= _LEAST_ACHIEVED * asked


async def prepare_locusts(bench: Bench, environment: Mapping[str, str], *, url: str, people: int) -> Locusts:
    """Make the people, and say where they are to be sent."""
    made = await seed(Settings.from_env(environment), count=people, funds=_FUNDS)
    path = bench.directory / "people.jsonl"
    path.write_text(dump_people(made), encoding="utf-8")
    variables = {"LOADTEST_PEOPLE_FILE": str(path), "LOADTEST_URL": url, "LOADTEST_RATE": str(PER_USER)}
    return Locusts(bench, variables)
