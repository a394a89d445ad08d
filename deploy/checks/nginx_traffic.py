"""The product behind nginx as a whole: what is asked, by whom, how fast, and how much, through two web instances."""

import asyncio
from typing import Final

from deploy.checks.failures import require
from deploy.checks.nginx_clients import (
    LOGINS_PER_ADDRESS,
    TRUSTED_PROXY,
    check_addresses,
    check_rates,
    check_slow_clients,
    check_trusted_proxy,
    find_leaks,
)
from deploy.checks.nginx_requests import SECRET_QUERY, check_answers, check_names, check_orphan
from deploy.checks.nginx_servers import buy_token, make_certificate, run_instances, run_nginx
from deploy.checks.nginx_streams import check_streams
from deploy.checks.nginx_upstream import run_upstream
from deploy.checks.servers import open_servers

_NOBODY: Final = "127.0.0.1:9"
_LIMITS: Final = {
    "RATE_LIMIT_PROXY": "off",
    "RATE_LIMIT_AUTH": f"{LOGINS_PER_ADDRESS}/3600",
}


def check_traffic() -> None:
    """Raise CheckFailed when something comes through that should not, or does not that should."""
    asyncio.run(_check())


async def _check() -> None:
    with open_servers() as servers:
        async with run_upstream() as upstream:
            plan, instances = run_instances(servers, {"ZENZEFI_TARGET_URL": upstream.url}, _LIMITS)
            token = buy_token(plan)
            holder = {"X-Access-Token": token, "X-Device-ID": "device-0001"}
            web = [instance.address for instance in instances]
            certificate = make_certificate(servers.folder / "certificate.pem")
            nginx = run_nginx(servers, web=web, certificate=certificate)
            trusting = {"NGINX_TRUSTED_PROXIES": f"{TRUSTED_PROXY}/32"}
            balanced = run_nginx(servers, web=web, certificate=certificate, variables=trusting)
            orphan = run_nginx(servers, web=[_NOBODY], certificate=certificate)
            await check_answers(nginx, holder)
            await check_orphan(orphan)
            await check_names(nginx)
            await check_addresses(nginx, upstream, holder)
            await check_trusted_proxy(balanced, upstream, holder)
            await check_rates(nginx, holder)
            pids = [pid for instance in instances for pid in instance.processes()]
            slow = asyncio.ensure_future(check_slow_clients(nginx))  # they only wait
            try:
                await check_streams(nginx, upstream, holder, pids)
                await slow
            finally:
                slow.cancel()
            used = {one["upstream"] for one in nginx.requests}
            require((address for address in web if address not in used), what="A web instance is never asked")
            secrets = {"a token": token, "a query": SECRET_QUERY}
            require(
                [leak for one in (nginx, orphan) for leak in find_leaks(one, secrets)], what="The log of nginx holds"
            )
