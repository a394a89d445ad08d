"""Says which of the given addresses take a connection, as JSON."""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

# An address to which no way leads may be silent.
TIMEOUT_S = 2.0


def is_open(address: str) -> bool:
    """Whether somebody answers there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=TIMEOUT_S).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    addresses = sys.argv[1:]
    with ThreadPoolExecutor(len(addresses)) as pool:
        print(
            json.dumps(
                [address for address, found in zip(addresses, pool.map(is_open, addresses), strict=True) if found]
            )
        )
