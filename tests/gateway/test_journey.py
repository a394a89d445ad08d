"""The main job, end to end, over HTTP and with the product's own processes."""

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp
import pytest

from tests.gateway.stack import ask, connect, until
from tests.support.people import PASSWORD, Person, gateway_headers, register
from tests.support.serving import Served

Serving = Callable[..., AbstractAsyncContextManager[Served]]

DEVICE = "laptop-of-somebody-7f3a"


async def test_register_top_up_buy_and_send_traffic_through_the_gateway(serving: Serving) -> None:
    async with serving(processes=2) as served, connect(served.url, fresh=True) as client:
        person = await register(client)
        assert await person.balance() == "0.00"
        await person.top_up("20.00")
        bought = await person.buy_token(24)
        assert (bought["cost_znc"], await person.balance()) == ("18.00", "2.00")
        token = bought["token"]

        async with client.get("/api/v1/proxy/status", headers={"X-Access-Token": token}) as response:
            ready = await response.json()
        assert (ready["status"], ready["time_remaining_seconds"]) == ("ready", 24 * 3600)

        body = bytes(range(256)) * 100
        answer = await ask(client, token, "/upload?q=%26%20b", method="PUT", data=body, device=DEVICE)
        assert answer.status == 200
        assert json.loads(answer.body) == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        seen = json.loads((await ask(client, token, "/a/b?q=%26%20b", device=DEVICE)).body)
        headers = {name.lower(): value for name, value in seen["headers"]}
        assert (seen["path"], seen["query"]) == ("/a/b", "q=%26%20b")
        assert (headers["x-user-id"], headers["x-token-id"]) == (person.user_id, bought["id"])
        assert not {"x-access-token", "x-device-id", "authorization"} & set(headers)

        async with client.get("/api/v1/proxy/status", headers=gateway_headers(token, DEVICE)) as response:
            active = await response.json()
        assert (active["status"], active["device"], active["holds_device"]) == ("active", "…7f3a", True)
        assert active["expires_at"] == answer.headers["X-Token-Expires-At"]
        assert (await ask(client, token, device="somebody-elses-phone")).status == 409
        status, problem = await person.request("DELETE", f"/api/v1/tokens/{bought['id']}")
        assert (status, problem["code"]) == (409, "token_activated")

        await until(lambda: has_session(person, bought["id"], requests=2), timeout_s=30)
        [session] = (await person.get(f"/api/v1/tokens/{bought['id']}/sessions"))["items"]
        assert (session["device"], session["bytes_in"]) == ("…7f3a", len(body))
        assert session["bytes_out"] > len(answer.body)

        entries = (await person.get("/api/v1/currency/transactions"))["items"]
        assert [entry["amount"] for entry in entries] == ["-18.00", "20.00"]
        log = await served.stop()
    for secret in (token, token[4:47], PASSWORD, person.access_token, person.refresh_token, DEVICE):
        assert secret not in log
    assert bought["id"] in log, "the log names the token by its id"


async def has_session(person: Person, token_id: str, *, requests: int) -> bool:
    items = (await person.get(f"/api/v1/tokens/{token_id}/sessions"))["items"]
    return bool(items) and items[0]["request_count"] == requests


# Runs at the start of every Python process of the product: its wall clock is wrong by a day, whoever reads it.
_WRONG_CLOCK = """
import datetime, time

real_time, real_time_ns, Real = time.time, time.time_ns, datetime.datetime
time.time = lambda: real_time() + {shift_s}
time.time_ns = lambda: real_time_ns() + {shift_s} * 10**9

class Skewed(Real):
    @classmethod
    def now(cls, tz=None):
        return Real.now(tz) + datetime.timedelta(seconds={shift_s})

    @classmethod
    def utcnow(cls):
        return Real.utcnow() + datetime.timedelta(seconds={shift_s})

datetime.datetime = Skewed
"""


@pytest.mark.parametrize("shift_s", [86_400, -86_400])
async def test_a_process_whose_wall_clock_is_wrong_tells_the_databases_time(
    serving: Serving, client: aiohttp.ClientSession, tmp_path: Path, shift_s: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_WRONG_CLOCK.format(shift_s=shift_s))
    async with serving(processes=1, PYTHONPATH=str(tmp_path)) as served, connect(served.url) as skewed:
        person = await register(skewed)
        await person.top_up("1.00")
        bought = await person.buy_token(1)
        answer = await ask(skewed, bought["token"])
        assert answer.status == 200
        # The wrong clock is really there: aiohttp takes the Date of a response from it.
        async with skewed.get("/health") as response:
            wrong = parsedate_to_datetime(response.headers["Date"])
        async with client.get("/health") as response:
            right = parsedate_to_datetime(response.headers["Date"])
        assert abs((wrong - right).total_seconds() - shift_s) < 10
        expires_at = datetime.fromisoformat(answer.headers["X-Token-Expires-At"])
        assert 3590 < (expires_at - right).total_seconds() < 3610
        # A process with a right clock agrees, and so does the wrong one after it has forgotten what it said.
        for session in (client, skewed):
            again = await ask(session, bought["token"])
            assert (again.status, again.headers["X-Token-Expires-At"]) == (200, answer.headers["X-Token-Expires-At"])
