"""What the product's command line takes, asked without running anything."""

from collections.abc import Sequence

import click

from zenzefi.cli import main


def misuse(arguments: Sequence[str]) -> str:
    """Why the command line would refuse `zenzefi ARGUMENTS…`, or "" if it would not. Runs nothing."""
    if any(word in ("-h", "--help", "--version") for word in arguments):
        return ""
    command: click.Command = main
    words, context = list(arguments), None
    try:
        while isinstance(command, click.Group):
            context = command.make_context(command.name, words, parent=context)
            words = [*context.protected_args, *context.args]
            if not words:
                return ""  # it shows its help
            _, found, words = command.resolve_command(context, words)
            assert found is not None
            command = found
        command.make_context(command.name, words, parent=context)
    except click.ClickException as error:
        return error.format_message()
    except click.Abort:
        return ""  # it asks before it goes on
    return ""
