"""Mails as text: templates of this package, filled in and put into a message (RFC 5322, RFC 2046).

Each mail has a text and the same as simple HTML, in which all that is filled in is escaped. Headers are made by
EmailMessage, which encodes what is not ASCII and refuses line breaks.
"""

import html
from collections.abc import Mapping
from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from functools import cache
from importlib.resources import files
from string import Template
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from zenzefi.settings import Settings

_SUBJECT: Final = "Subject: "


def render(
    template: str, *, settings: Settings, mail_id: UUID, recipient: str, details: Mapping[str, str], at: datetime
) -> bytes:
    """The message that a mail is, ready to be handed in; equal arguments make equal headers.

    Raises:
        KeyError: the template names what `details` lack.
        ValueError: something that goes into a header cannot stand there.
    """
    service = urlsplit(settings.backend_url).netloc
    values = {**details, "service": service}
    first, _, body = _template(f"{template}.txt").substitute(values).partition("\n")
    subject = first.removeprefix(_SUBJECT)
    page = _template("page.html").substitute(
        subject=html.escape(subject),
        body=_template(f"{template}.html").substitute({name: html.escape(value) for name, value in values.items()}),
        service=html.escape(service),
    )
    try:
        to = Address(addr_spec=recipient)
    except (MessageError, IndexError) as error:
        raise ValueError("no e-mail address") from error
    message = EmailMessage(policy=SMTP)
    message["From"] = sender_of(settings)
    message["To"] = to
    message["Subject"] = subject
    message["Date"] = format_datetime(at)
    message["Message-ID"] = f"<{mail_id}@{sender_of(settings).domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notice comes back
    # Quoted-printable keeps to ASCII and to short lines, whichever extensions the server has.
    message.set_content(body.lstrip("\n") + _template("footer.txt").substitute(values), cte="quoted-printable")
    message.add_alternative(page, subtype="html", cte="quoted-printable")
    return message.as_bytes()


def sender_of(settings: Settings) -> Address:
    """Who sends all mail."""
    name, address = parseaddr(settings.mail.sender)
    return Address(display_name=name, addr_spec=address)


def format_instant(at: datetime) -> str:
    """An instant, UTC, to the minute, as people read it."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


@cache
def _template(name: str) -> Template:
    return Template(files("zenzefi.mail").joinpath("templates", name).read_text(encoding="utf-8"))
