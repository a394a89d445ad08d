"""Where alerts arrive in the check: a mail server, Slack's and Telegram's interfaces, and the watchdog's address."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from aiosmtpd.smtp import SMTP, Envelope, Session

from deploy.checks.failures import CheckFailed
from zenzefi.devstack.ports import LOOPBACK, find_free_port

TELEGRAM_TOKEN: Final = "123456:check"  # noqa: S105  of our own Telegram
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Inboxes:
    """What has arrived so far, by the way it came."""

    http_url: str
    smtp_port: int
    mails: list[str] = field(default_factory=list)
    slack: list[str] = field(default_factory=list)
    telegram: list[str] = field(default_factory=list)
    deadman: list[str] = field(default_factory=list)

    async def wait_for(self, *texts: str, ways: tuple[str, ...], timeout_s: float) -> None:
        """Return once each way has brought a message with all these texts; raises CheckFailed."""

        def missing() -> list[str]:
            return [way for way in ways if not any(all(text in one for text in texts) for one in getattr(self, way))]

        await until(lambda: not missing(), timeout_s=timeout_s, otherwise=lambda: self._complaint(missing(), texts))

    def _complaint(self, ways: list[str], texts: tuple[str, ...]) -> str:
        came = "\n".join(f"{way}: {getattr(self, way)}" for way in ways)
        return f"No message with {texts} came by {ways}. What came:\n{came}"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  aiosmtpd's
        """Keep a mail."""
        message = message_from_bytes(envelope.original_content or b"", policy=default)
        body = message.get_body(("plain",))
        text = "" if body is None else str(body.get_content())
        self.mails.append(f"To: {', '.join(envelope.rcpt_tos)}\nSubject: {message['Subject']}\n\n{text}")
        return "250 OK"


@contextlib.asynccontextmanager
async def open_inboxes() -> AsyncIterator[Inboxes]:
    """Receive meanwhile."""
    port, smtp_port = find_free_port(), find_free_port()
    inboxes = Inboxes(http_url=f"http://{LOOPBACK}:{port}", smtp_port=smtp_port)
    app = web.Application()
    app.add_routes(
        [
            web.post("/slack", _keep(inboxes.slack, "ok")),
            web.post("/deadman", _keep(inboxes.deadman, "ok")),
            web.post(
                f"/bot{TELEGRAM_TOKEN}/sendMessage",
                _keep(inboxes.telegram, '{"ok": true, "result": {"message_id": 1, "date": 0, "chat": {"id": 1}}}'),
            ),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, port).start()
    loop = asyncio.get_running_loop()
    smtp = await loop.create_server(lambda: SMTP(inboxes, hostname="localhost", loop=loop), LOOPBACK, smtp_port)
    try:
        yield inboxes
    finally:
        smtp.close()
        await runner.cleanup()


async def until(is_so: Callable[[], bool], *, timeout_s: float, otherwise: Callable[[], str]) -> None:
    """Return once something is so; raises CheckFailed with what `otherwise` says."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not is_so():
        if asyncio.get_running_loop().time() > deadline:
            raise CheckFailed(otherwise())
        await asyncio.sleep(_POLL_S)


def _keep(messages: list[str], answer: str) -> Handler:
    async def keep(request: web.Request) -> web.Response:
        messages.append(await request.text())
        return web.Response(text=answer, content_type="application/json" if answer.startswith("{") else "text/plain")

    return keep
