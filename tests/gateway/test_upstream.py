"""The session to the upstream as settings make it: TLS, and what it does not add."""

import asyncio
import dataclasses
from pathlib import Path

import pytest

from tests.gateway.upstreams import RawUpstream, answer_ok
from tests.support.certificates import make_certificate, serving_context
from zenzefi.gateway.errors import UpstreamUnreachable
from zenzefi.gateway.upstream import Exchange, connector_of
from zenzefi.infra.http import open_upstream
from zenzefi.settings import Settings

HEAD = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in PEM."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "upstream.pem", host="127.0.0.1")


async def serve_tls(certificate: Path) -> tuple[RawUpstream, asyncio.Server]:
    upstream = RawUpstream(lambda reader, writer: answer_ok(upstream, reader, writer))
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=serving_context(certificate))
    upstream.port = server.sockets[0].getsockname()[1]
    return upstream, server


async def test_an_upstream_with_a_certificate_of_our_own_authority_is_served(
    certificate: Path, settings: Settings
) -> None:
    upstream, server = await serve_tls(certificate)
    url = f"https://127.0.0.1:{upstream.port}"
    async with (
        server,
        open_upstream(dataclasses.replace(settings, upstream_url=url, upstream_ca_file=str(certificate))) as session,
    ):
        exchange = Exchange(connector_of(session), "GET")
        await exchange.send(HEAD)
        assert (await exchange.answer()).message.code == 200
        exchange.release()


async def test_an_upstream_with_a_certificate_of_nobody_is_not_asked(certificate: Path, settings: Settings) -> None:
    upstream, server = await serve_tls(certificate)
    url = f"https://127.0.0.1:{upstream.port}"
    async with server, open_upstream(dataclasses.replace(settings, upstream_url=url)) as session:
        exchange = Exchange(connector_of(session), "GET")
        with pytest.raises(UpstreamUnreachable):
            await exchange.send(HEAD)
        assert upstream.heads == []


async def test_requests_of_the_session_itself_add_nothing_and_share_the_breaker(settings: Settings) -> None:
    upstream = RawUpstream(lambda reader, writer: answer_ok(upstream, reader, writer))
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    async with server, open_upstream(dataclasses.replace(settings, upstream_url=upstream.url)) as session:
        async with session.get(upstream.url) as response:
            assert await response.read() == b"ok"
        assert upstream.heads[0].split(b"\r\n")[1:] == [b"Host: 127.0.0.1:%d" % upstream.port, b"", b""]
        server.close()
        connector = connector_of(session)
        for _ in range(5):
            connector.breaker.record_failure()
        assert not connector.breaker.allow()
