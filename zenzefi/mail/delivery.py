"""Handing mails in at the mail server (RFC 5321, RFC 6409): one connection, every step bounded, TLS verified.

The three errors say what is certain: MailServerUnusable and MailRefused that the server does not have the mail,
DeliveryUncertain that nobody can know. No text of them holds a password, nor the name part of an address.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import aiosmtplib
from aiosmtplib import SMTPDataError, SMTPException, SMTPRecipientRefused, SMTPResponseException

from zenzefi.mail.rendering import sender_of
from zenzefi.settings import Settings
from zenzefi.upkeep_settings import MailEncryption

# RFC 5321, section 4.5.3.2, allows minutes; but a job has one, and a mail that cannot be handed in is tried again.
OPEN_TIMEOUT_S: Final = 10.0  # connection, greeting, STARTTLS and login together
ENVELOPE_TIMEOUT_S: Final = 10.0  # MAIL and RCPT
# Not to be tried again once it was begun: that is worth waiting for. Servers check the content before they answer.
DATA_TIMEOUT_S: Final = 20.0
_QUIT_TIMEOUT_S: Final = 1.0
_MAX_REPLY_CHARS: Final = 200
_NAME_PART: Final = re.compile(r"[^\s<>\"'(),:;@]+@")


class MailError(Exception):
    """A mail was not handed in, or nobody can know whether it was; the message says why."""


class MailServerUnusable(MailError):
    """The mail server cannot be reached, or does not serve us; the message says why. It has nothing of the mail."""


class MailRefused(MailError):
    """The mail server refuses this mail; `is_final` tells whether for good (RFC 5321: 5yz)."""

    def __init__(self, reply: str, *, is_final: bool) -> None:
        """Take what the server said."""
        super().__init__(reply)
        self.is_final = is_final


class DeliveryUncertain(MailError):
    """The mail was being handed in and no answer came: the server may have it or not."""


class MailSession:
    """A connection to the mail server, opened when it is first needed and again when the server has closed it."""

    def __init__(self, settings: Settings) -> None:
        """Take the mail server's settings; nothing is connected yet."""
        self._settings = settings
        self._client: aiosmtplib.SMTP | None = None

    async def begin(self, recipient: str) -> None:
        """Name sender and recipient: all that comes before the mail itself.

        Raises:
            MailServerUnusable: the server cannot be used now; try later.
            MailRefused: it does not take mail for this recipient.
        """
        is_used = self._client is not None
        try:
            await self._begin(recipient)
        except aiosmtplib.SMTPServerDisconnected as error:
            await self.close()
            # Servers close what was idle, and after so many mails: that is no reason to give up.
            if not is_used:
                raise MailServerUnusable(_reason(error)) from error
            await self._retry(recipient)

    async def hand_in(self, message: bytes) -> str:
        """Hand in the mail; what the server said when it took it over.

        Raises:
            MailServerUnusable: the connection was lost before.
            MailRefused: the server said that it did not take it.
            DeliveryUncertain: it said nothing that could be understood.
        """
        client = self._client
        if client is None or not client.is_connected:
            await self.close()
            raise MailServerUnusable("The connection was lost before the mail was handed in.")
        try:
            async with asyncio.timeout(DATA_TIMEOUT_S):
                return _worded(await client.data(message))
        except SMTPDataError as error:
            if 400 <= error.code < 600:
                await self.abandon()
                raise MailRefused(_reason(error), is_final=error.code >= 500) from error
            await self.close()
            raise DeliveryUncertain(_reason(error)) from error
        except (SMTPException, OSError) as error:  # TimeoutError is an OSError
            await self.close()
            raise DeliveryUncertain(_reason(error)) from error

    async def abandon(self) -> None:
        """Forget the recipient that was named, so that the connection is good for another mail."""
        client = self._client
        try:
            async with asyncio.timeout(ENVELOPE_TIMEOUT_S):
                if client is not None:
                    await client.rset()
        except (SMTPException, OSError):
            await self.close()

    async def close(self) -> None:
        """Take leave, if there still is somebody to take leave of."""
        client, self._client = self._client, None
        if client is None:
            return
        with suppress(SMTPException, OSError):
            async with asyncio.timeout(_QUIT_TIMEOUT_S):
                if client.is_connected:
                    await client.quit()
        client.close()

    async def _begin(self, recipient: str) -> None:
        try:
            client = self._client = self._client or await connect(self._settings)
            async with asyncio.timeout(ENVELOPE_TIMEOUT_S):
                await client.mail(sender_of(self._settings).addr_spec)
                await client.rcpt(recipient)
        except SMTPRecipientRefused as error:
            await self.abandon()
            raise MailRefused(_reason(error), is_final=error.code >= 500) from error
        except aiosmtplib.SMTPServerDisconnected:
            raise
        except (SMTPException, OSError) as error:
            # The sender is the same for every mail: what the server says to it, it says to us.
            await self.close()
            raise MailServerUnusable(_reason(error)) from error
        except ValueError as error:
            await self.abandon()
            raise MailRefused("The address cannot be used.", is_final=True) from error

    async def _retry(self, recipient: str) -> None:
        try:
            await self._begin(recipient)
        except aiosmtplib.SMTPServerDisconnected as error:
            await self.close()
            raise MailServerUnusable(_reason(error)) from error


@asynccontextmanager
async def open_session(settings: Settings) -> AsyncIterator[MailSession]:
    """Lend a session, and close it."""
    session = MailSession(settings)
    try:
        yield session
    finally:
        await session.close()


async def connect(settings: Settings) -> aiosmtplib.SMTP:
    """Connect, encrypt and sign in, as the settings say; never with less than they ask for.

    Raises:
        MailServerUnusable: any of that did not succeed.
    """
    mail = settings.mail
    client = None
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            tls = None
            if mail.encryption is not MailEncryption.NONE:
                # Reading a system's certificates takes tens of milliseconds.
                tls = await asyncio.to_thread(ssl.create_default_context, cafile=mail.ca_file or None)
            client = aiosmtplib.SMTP(
                hostname=mail.host,
                port=mail.port,
                use_tls=mail.encryption is MailEncryption.TLS,
                start_tls=mail.encryption is MailEncryption.STARTTLS,  # True: not without it
                tls_context=tls,
                local_hostname=sender_of(settings).domain,  # no name of this machine is worth a slow DNS
                timeout=DATA_TIMEOUT_S,
            )
            await client.connect()
            await client.ehlo()
            if mail.username:
                await client.login(mail.username, mail.password)
            return client
    except (SMTPException, OSError, ValueError) as error:
        if client is not None:
            client.close()
        raise MailServerUnusable(_reason(error)) from error
    except asyncio.CancelledError:
        if client is not None:
            client.close()
        raise


async def check(settings: Settings) -> None:
    """Connect, encrypt and sign in, and leave again; no mail is sent.

    Raises:
        MailServerUnusable: any of that did not succeed.
    """
    client = await connect(settings)
    with suppress(SMTPException, OSError):
        async with asyncio.timeout(_QUIT_TIMEOUT_S):
            await client.quit()
    client.close()


def _reason(error: Exception) -> str:
    if isinstance(error, SMTPResponseException):
        return _worded(aiosmtplib.SMTPResponse(error.code, error.message))
    if isinstance(error, TimeoutError):
        return "It did not answer in time."
    return _tidy(str(error) or type(error).__name__)


def _worded(reply: aiosmtplib.SMTPResponse) -> str:
    return _tidy(f"{reply.code} {reply.message}")


def _tidy(text: str) -> str:
    """One printable line without the name parts of addresses, which servers like to repeat."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return _NAME_PART.sub("…@", line)[:_MAX_REPLY_CHARS]
