"""What the log says of an answer that could not be read: its kind of failure, and nothing of what the upstream sent."""

import asyncio
import dataclasses
import logging

import aiohttp
import pytest

from tests.gateway.stack import ask, buy
from tests.gateway.upstreams import RawUpstream, raw_upstream
from tests.support.inprocess import run_app
from zenzefi.context import open_context
from zenzefi.settings import Settings


async def test_the_log_repeats_nothing_of_an_unreadable_answer(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answers = iter(
        [
            b"HTTP/1.1 200 OK\r\nSet-Cookie: session=hunter2\x00\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nSet-Cookie: session=hunter2\r\nContent-Le",
        ]
    )

    async def answer(upstream: RawUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await upstream.read_head(reader)
        writer.write(next(answers))
        await writer.drain()

    async with (
        raw_upstream(answer) as upstream,
        open_context(dataclasses.replace(settings, upstream_url=upstream.url)) as ctx,
        run_app(ctx) as url,
        aiohttp.ClientSession(url) as client,
    ):
        _, [token] = await buy(client)
        assert (await ask(client, token)).code == "upstream_bad_answer"
        assert (await ask(client, token)).code == "upstream_unreachable"
    assert "upstream_bad_answer" in caplog.text
    assert "upstream_unreachable" in caplog.text
    assert "hunter2" not in caplog.text
