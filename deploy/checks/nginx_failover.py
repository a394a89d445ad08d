"""Web instances that die and restart under load while nginx loses no request, and what it never sends twice."""

import asyncio
import contextlib
import os
import re
import signal
import ssl
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

from deploy.checks import debian
from deploy.checks.failures import CheckFailed, require
from deploy.checks.nginx_servers import (
    SERVER_NAME,
    Nginx,
    WebInstance,
    buy_token,
    make_certificate,
    run_instances,
    run_nginx,
)
from deploy.checks.servers import Servers, open_servers
from zenzefi.devstack.ports import LOOPBACK, find_free_port
from zenzefi.devstack.process import ChildProcess

_REQUESTS: Final = 100_000
_RESTARTS: Final = 20
_TIMEOUT_S: Final = 1800.0  # a machine that does nothing else needs a fifteenth of it
_CONNECTIONS: Final = 16
_LEAST_UNDER_KILL: Final = 3000
_SPARE: Final = 1000  # nginx also counts our own questions, and what wrk leaves behind
# Each tenth request is one that may not be repeated.
_MIXED: Final = """
local number = 0
function request()
    number = number + 1
    if number % 10 == 0 then
        return wrk.format("POST", "/api/v1/proxy/upload", nil, "the body")
    end
    return wrk.format("GET", "/api/v1/proxy/hello")
end
"""
_ONLY_GET: Final = 'function request() return wrk.format("GET", "/api/v1/proxy/hello") end\n'
_SUMMARY: Final = re.compile(r"(\d+) requests in ")
_FAULTS: Final = re.compile(r"Socket errors:.*|Non-2xx.*|unable.*")
_LONGEST: Final = re.compile(r"Latency +\S+ +\S+ +(\S+)")
_ASKED: Final = 20


def check_failover() -> None:
    """Raise CheckFailed when a request fails, or one that may not be repeated is."""
    with open_servers() as servers:
        asyncio.run(_check_repetition(servers))
        plan, instances = run_instances(servers, {}, {"RATE_LIMIT_PROXY": "off"})
        holder = {"X-Access-Token": buy_token(plan), "X-Device-ID": "device-0001"}
        certificate = make_certificate(servers.folder / "certificate.pem")
        nginx = run_nginx(servers, web=[one.address for one in instances], certificate=certificate)
        # A POST that is under way in an instance that is killed fails, and has to: nobody knows whether it was done.
        loads = [_Load(servers, nginx, holder, name="killed", script=_ONLY_GET)]
        _kill(instances[0], nginx)
        loads[0].end()
        loads.append(_Load(servers, nginx, holder, name="restarts", script=_MIXED))
        _restart(instances, nginx, answered=loads[0].answered)
        loads[1].end()
        _judge(loads, nginx)


class _Load:
    """wrk, until it is ended."""

    def __init__(self, servers: Servers, nginx: Nginx, holder: Mapping[str, str], *, name: str, script: str) -> None:
        wrk = debian.ensure("wrk", binary="wrk")
        file = servers.folder / f"{name}.lua"
        file.write_text(script, encoding="ascii")
        headers = [part for field, value in holder.items() for part in ("--header", f"{field}: {value}")]
        options = ["--threads", "1", "--connections", str(_CONNECTIONS), "--duration", f"{_TIMEOUT_S:.0f}s"]
        self._child: ChildProcess = servers.run(
            f"wrk-{name}", [wrk, *options, "--timeout", "30s", "--latency", "--script", file, *headers, nginx.url]
        )
        self.summary = ""

    def end(self) -> None:
        """End it by the signal that has it sum up."""
        os.kill(self._child.pid, signal.SIGINT)
        deadline = time.monotonic() + 30.0
        while self._child.returncode is None:
            if time.monotonic() > deadline:
                raise CheckFailed("wrk does not end.")
            time.sleep(0.05)
        self.summary = self._child.log_text()

    @property
    def answered(self) -> int:
        """How many requests it counts."""
        found = _SUMMARY.search(self.summary)
        if found is None:
            raise CheckFailed(f"wrk says:\n{self.summary}")
        return int(found[1])


def _kill(instance: WebInstance, nginx: Nginx) -> None:
    before = _count(nginx)
    _wait_for_requests(nginx, before + _LEAST_UNDER_KILL // 2)
    instance.kill()
    _wait_for_requests(nginx, before + _LEAST_UNDER_KILL)
    instance.start_again()


def _restart(instances: list[WebInstance], nginx: Nginx, *, answered: int) -> None:
    before = _count(nginx)
    for number in range(_RESTARTS):
        instances[number % len(instances)].restart()
    _wait_for_requests(nginx, before + _REQUESTS - answered + _SPARE)


def _wait_for_requests(nginx: Nginx, wanted: int) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while (count := _count(nginx)) < wanted:
        if time.monotonic() > deadline:
            raise CheckFailed(f"After {_TIMEOUT_S:g} s nginx has had {count} of {wanted} requests.")
        time.sleep(0.1)


def _count(nginx: Nginx) -> int:
    """How many requests nginx has had."""
    with urllib.request.urlopen(nginx.status_url, timeout=60) as response:  # noqa: S310  an address of ours
        return int(response.read().split()[9])


def _judge(loads: list[_Load], nginx: Nginx) -> None:
    answered = sum(load.answered for load in loads)
    faults = [fault for load in loads for fault in _FAULTS.findall(load.summary)]
    # 499: wrk left before the answer, when it was ended.
    failed = Counter(one["status"] for one in nginx.requests if one["status"] not in (200, 499))
    if failed:
        faults.append(f"nginx answered {dict(failed)}")
    if answered < _REQUESTS:
        faults.append(f"only {answered} requests were answered")
    passed_on = sum("," in one["upstream"] for one in nginx.requests)
    if not passed_on:
        faults.append("no request was ever passed on to the other instance, so that nothing was shown")
    longest = ", ".join(found[1] for load in loads if (found := _LONGEST.search(load.summary)))
    require(faults, what=f"Of {answered} requests while an instance was killed and {_RESTARTS} restarted")
    print(f"  0 of {answered} requests failed, {passed_on} were passed on; the longest took {longest}")


@dataclass(slots=True)
class _Instance:
    """A stand-in for a web instance that counts requests, and answers them or dies."""

    address: str = ""
    requests: int = 0


async def _check_repetition(servers: Servers) -> None:
    """A GET goes to the next instance when one dies, a POST only if nothing of it was sent."""
    certificate = make_certificate(servers.folder / "repetition.pem")
    async with _run(answers=True) as good, _run(answers=False) as dying:
        nginx = run_nginx(servers, web=[good.address, dying.address], certificate=certificate)
        down = f"{LOOPBACK}:{find_free_port()}"
        other = run_nginx(servers, web=[good.address, down], certificate=certificate)
        gets = await _ask(nginx, "GET")
        seen_before = good.requests + dying.requests
        posts = await _ask(nginx, "POST")
        posts += await _ask_bare(nginx)
        seen = good.requests + dying.requests - seen_before
        refused = await _ask(other, "POST")
        died = dying.requests
    faults = []
    if gets != {200: _ASKED}:
        faults.append(f"GET beside an instance that dies: {dict(gets)}")
    if seen != 2 * _ASKED or not posts[502]:
        faults.append(f"POST beside an instance that dies: {dict(posts)}, and the instances saw {seen} of {2 * _ASKED}")
    if refused != {200: _ASKED}:
        faults.append(f"POST beside an instance that is down: {dict(refused)}")
    if not died:
        faults.append("the instance that dies was never asked")
    require(faults, what="Repetition")


@contextlib.asynccontextmanager
async def _run(*, answers: bool) -> AsyncIterator[_Instance]:
    instance = _Instance()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            instance.requests += 1
            if answers:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    async with server:
        instance.address = f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
        yield instance


async def _ask(nginx: Nginx, method: str) -> Counter[int]:
    answers: Counter[int] = Counter()
    async with nginx.session() as client:
        for _ in range(_ASKED):
            async with client.request(method, "/api/v1/proxy/x", data=b"a" if method == "POST" else None) as response:
                answers[response.status] += 1
    return answers


async def _ask_bare(nginx: Nginx) -> Counter[int]:
    """By a POST that has no body at all, not even one of no bytes: nginx has nothing then that it could not repeat."""
    answers: Counter[int] = Counter()
    tls = ssl.create_default_context(cafile=str(nginx.certificate))
    for _ in range(_ASKED):
        reader, writer = await asyncio.open_connection(LOOPBACK, nginx.https_port, ssl=tls, server_hostname=SERVER_NAME)
        writer.write(f"POST /api/v1/proxy/x HTTP/1.1\r\nHost: {SERVER_NAME}\r\nConnection: close\r\n\r\n".encode())
        answers[int((await reader.read()).split()[1])] += 1
        writer.close()
    return answers
