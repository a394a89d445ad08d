"""Processes that hand in the same outbox, and are killed while they do: no mail is ever sent twice."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from aiosmtpd.smtp import SMTP, Envelope

from tests.mail.mail_server import MailServer, say
from tests.mail.outbox import pass_time, rows, states, write
from tests.support.serving import ROOT
from zenzefi.context import Context
from zenzefi.mail import sending

SENDERS = 2
MAILS = 50
# Longer than any claim.
LATER = timedelta(minutes=10)


class Senders:
    """Processes that send; killed at the end."""

    def __init__(self, env: dict[str, str], count: int) -> None:
        self._env = {**os.environ, **env}
        self.processes = [self._start() for _ in range(count)]

    def kill(self, index: int = 0) -> None:
        """Kill one of them, as the system would."""
        self.processes[index].kill()
        self.processes[index].wait()

    def replace(self, index: int) -> None:
        """Kill one, and start another in its place."""
        self.kill(index)
        self.processes[index] = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "tests.mail.sender"], env=self._env, cwd=ROOT, stdin=subprocess.DEVNULL
        )


@contextmanager
def _running(env: dict[str, str], count: int) -> Iterator[Senders]:
    senders = Senders(env, count)
    try:
        yield senders
    finally:
        for index in range(count):
            senders.kill(index)


@pytest.mark.parametrize(
    ("step", "left", "in_the_end"), [("on_recipient", "waiting", "sent"), ("on_data", "sending", "unknown")]
)
async def test_what_a_killed_sender_leaves(
    mail_ctx: Context, mail_env: dict[str, str], mail_server: MailServer, step: str, left: str, in_the_end: str
) -> None:
    await write(mail_ctx)
    killed = asyncio.Event()
    with _running(mail_env, 1) as senders:

        async def kill(_server: SMTP, _envelope: Envelope) -> str | None:
            senders.kill()
            killed.set()
            return None

        setattr(mail_server, step, kill)
        async with asyncio.timeout(30):
            await killed.wait()
    assert await states(mail_ctx) == [left]
    setattr(mail_server, step, say())
    assert await sending.send_due(mail_ctx) == 0, "while it might still be at it"
    await pass_time(mail_ctx, LATER)
    await sending.send_due(mail_ctx)
    await pass_time(mail_ctx, LATER)
    await sending.send_due(mail_ctx)
    assert await states(mail_ctx) == [in_the_end]
    assert list(mail_server.message_ids.values()) == [1]


async def test_senders_that_are_killed_at_any_moment_send_nothing_twice(
    mail_ctx: Context, mail_env: dict[str, str], mail_server: MailServer
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    moments = sorted(chance.sample(range(3 * MAILS // 4), 3))
    steps = 0
    with _running(mail_env, SENDERS) as senders:

        async def interfere(_server: SMTP, _envelope: Envelope) -> str | None:
            nonlocal steps
            steps += 1
            if moments and steps > moments[0]:
                moments.pop(0)
                senders.replace(chance.randrange(SENDERS))
            await asyncio.sleep(chance.random() / 100)
            return chance.choice((None, None, None, "450 4.2.0 later"))

        mail_server.on_mail = mail_server.on_recipient = mail_server.on_data = interfere
        for _ in range(MAILS):
            await write(mail_ctx)
        async with asyncio.timeout(60):
            # Claims run out at once, even of senders that live: what is done under one that ran out must not count.
            while {"waiting", "sending"} & set(await states(mail_ctx)):
                await asyncio.sleep(0.1)
                await pass_time(mail_ctx, LATER)
    print(f"seed {seed}: {Counter(await states(mail_ctx))}")
    assert moments == [], "everybody was killed who should be"
    ids = mail_server.message_ids
    by_state: dict[str, set[str]] = {"sent": set(), "unknown": set()}
    for row in await rows(mail_ctx):
        by_state[row["state"]].add(f"<{row['id']}@mail.example>")
    assert set(ids.values()) == {1}, seed
    assert by_state["sent"] <= set(ids) <= by_state["sent"] | by_state["unknown"], seed
    # Unknown are what a kill interrupted, and what was refused by then while another had given it up already.
    assert len(by_state["sent"]) >= MAILS * 3 // 4, seed
