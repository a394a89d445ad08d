"""Says which of the given addresses take a connection, as JSON."""

import json
import socket
import sys


def is_open(address: str) -> bool:
    """Whether somebody answers there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    print(json.dumps([address for address in sys.argv[1:] if is_open(address)]))
