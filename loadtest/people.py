"""The people of a load test, as JSON lines: what each needs to sign in, to call the API and to use the gateway."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with an account, money, an open login and an access token for one device."""

    user_id: str
    email: str
    password: str = field(repr=False)
    jwt: str = field(repr=False)
    token: str = field(repr=False)
    device: str

    @property
    def api_headers(self) -> dict[str, str]:
        """The credentials of a request to the API."""
        return {"Authorization": f"Bearer {self.jwt}"}

    @property
    def gateway_headers(self) -> dict[str, str]:
        """The credentials of a request through the gateway."""
        return {"X-Access-Token": self.token, "X-Device-ID": self.device}


def dump_people(people: Iterable[Person]) -> str:
    """One line for each."""
    return "".join(json.dumps(asdict(person)) + "\n" for person in people)


def load_people(lines: str) -> list[Person]:
    """The inverse of ``dump_people``."""
    return [Person(**json.loads(line)) for line in lines.splitlines()]
