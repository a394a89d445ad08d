"""The images' health check: whether this container's own server answers, by exit code. It needs no curl.

A web process answers /readyz on INTERNAL_PORT: 503 while it drains, or cannot reach PostgreSQL or Redis. A worker's
event loop answers /metrics on WORKER_METRICS_PORT, which therefore must not be 0 in a container.
"""

import http.client
import os
import sys

# Below the 10 s that the image gives this whole program; /readyz may take 5 s when PostgreSQL hangs.
TIMEOUT_S = 8.0
PROBES = {"web": ("INTERNAL_PORT", "8001", "/readyz"), "worker": ("WORKER_METRICS_PORT", "8002", "/metrics")}


def main(kind: str) -> str | None:
    """Ask; returns what is wrong, or None."""
    variable, default, path = PROBES[kind]
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get(variable) or default), timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            return f"{path} was answered {response.status}: {response.read(500).decode(errors='replace')}"
    except (OSError, http.client.HTTPException) as error:
        return f"{path} was not answered: {error!r}"
    finally:
        connection.close()
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
