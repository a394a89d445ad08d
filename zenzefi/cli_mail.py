"""The command of operators for mail."""

import asyncio

import click

from zenzefi.settings import Settings


@click.group()
def mail() -> None:
    """E-mail to users."""


@mail.command("test")
@click.argument("address")
def mail_test(address: str) -> None:
    """Send one mail to ADDRESS at once, and say what the mail server answered. Needs no other server."""
    from zenzefi.mail.delivery import MailError
    from zenzefi.mail.sending import send_test

    settings = Settings.from_env()
    if not settings.mail.host:
        raise click.ClickException("SMTP_HOST is not set: there is no mail server to send by.")
    server = f"{settings.mail.host}:{settings.mail.port}"
    try:
        reply = asyncio.run(send_test(settings, recipient=address))
    except MailError as error:
        raise click.ClickException(f"{server} did not take the mail: {error}") from error
    except ValueError as error:
        raise click.BadParameter("that is no e-mail address", param_hint="ADDRESS") from error
    click.echo(f"{server} took the mail: {reply}")
