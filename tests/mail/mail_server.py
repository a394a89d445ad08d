"""A real SMTP server (aiosmtpd) of the tests, that keeps what it took and answers as it is told."""

import asyncio
import email
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, TypeAlias, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.certificates import serving_context

USERNAME, PASSWORD = "gateway", "smtp password of the tests"

# What the server says instead of 250; it may take its time, or end the connection.
Answer: TypeAlias = Callable[[SMTP, Envelope], Awaitable[str | None]]


async def agree(_server: SMTP, _envelope: Envelope) -> str | None:
    """No objection."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A mail that the server has."""

    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage
    raw: bytes
    signed_in: bool

    @property
    def text(self) -> str:
        return self.part("plain")

    @property
    def page(self) -> str:
        return self.part("html")

    def part(self, kind: str) -> str:
        body = self.message.get_body((kind,))
        assert body is not None
        return cast(str, body.get_content())


@dataclass(slots=True, kw_only=True)
class MailServer:
    """What the server took, and how it answers; `on_data` is asked when it has the mail, and before it says so."""

    port: int = 0
    connections: int = 0
    received: list[Received] = field(default_factory=list)
    on_mail: Answer = agree
    on_recipient: Answer = agree
    on_data: Answer = agree
    protocols: list[SMTP] = field(default_factory=list)

    @property
    def message_ids(self) -> Counter[str]:
        """How often it has each mail."""
        return Counter(str(mail.message["Message-ID"]) for mail in self.received)

    def end_connections(self) -> None:
        """End all connections without a word."""
        for protocol in self.protocols:
            if protocol.transport is not None:
                cast(asyncio.Transport, protocol.transport).abort()

    async def handle_MAIL(  # noqa: N802  aiosmtpd's names
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        refusal = await self.on_mail(server, envelope)
        if refusal is None:
            envelope.mail_from = address
            envelope.mail_options.extend(options)
        return refusal or "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        refusal = await self.on_recipient(server, envelope)
        if refusal is None:
            envelope.rcpt_tos.append(address)
        return refusal or "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        raw = cast(bytes, envelope.content)
        message = email.message_from_bytes(raw, policy=default)
        assert isinstance(message, EmailMessage)
        mail = Received(
            sender=str(envelope.mail_from),
            recipients=tuple(map(str, envelope.rcpt_tos)),
            message=message,
            raw=raw,
            signed_in=bool(session.authenticated),
        )
        refusal = await self.on_data(server, envelope)
        if refusal is None or not refusal.startswith(("4", "5")):
            self.received.append(mail)
        return refusal or "250 2.0.0 queued"


@asynccontextmanager
async def run_mail_server(
    *, tls: Path | None = None, implicit: bool = False, **options: Any
) -> AsyncIterator[MailServer]:
    """The server on a free port; with a certificate it offers STARTTLS, or speaks TLS from the beginning."""
    mailbox = MailServer()
    context = None if tls is None else serving_context(tls)

    def accept() -> SMTP:
        mailbox.connections += 1
        protocol = SMTP(
            mailbox,
            hostname="mail.tests",
            tls_context=None if implicit else context,
            authenticator=_authenticate,
            auth_require_tls=not implicit,
            **options,
        )
        mailbox.protocols.append(protocol)
        return protocol

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0, ssl=context if implicit else None)
    mailbox.port = server.sockets[0].getsockname()[1]
    try:
        yield mailbox
    finally:
        server.close()
        mailbox.end_connections()
        await server.wait_closed()


def _authenticate(
    _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: LoginPassword
) -> AuthResult:
    right = (data.login, data.password) == (USERNAME.encode(), PASSWORD.encode())
    return AuthResult(success=right, handled=right)


async def hang_up(server: SMTP, _envelope: Envelope) -> str | None:
    """End the connection without a word."""
    cast(asyncio.Transport, server.transport).abort()
    return None


def say(*answers: str | None) -> Answer:
    """Answer so, one after the other, and then without objection."""
    waiting = list(answers)

    async def answer(_server: SMTP, _envelope: Envelope) -> str | None:
        return waiting.pop(0) if waiting else None

    return answer
