"""One gateway process to be measured, as the product runs it; with --unobserved it counts, logs and correlates nothing.

`python -m loadtest.gateway_process PORT [--unobserved]`, with the product's variables in the environment.
"""

import argparse
import asyncio
import signal
import socket
from typing import Any

import uvloop

from zenzefi.devstack.ports import LOOPBACK
from zenzefi.infra.correlation import Correlation
from zenzefi.infra.logging import configure_logging
from zenzefi.infra.metrics import Counter, Gauge, Histogram
from zenzefi.server.process import settle_memory
from zenzefi.server.runner import HardenedRunner
from zenzefi.server.service import open_service
from zenzefi.server.site import SharedSite
from zenzefi.settings import Settings


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--unobserved", action="store_true")
    options = parser.parse_args()
    settings = Settings.from_env()
    configure_logging(settings.log_level, by_thread=True)
    if options.unobserved:
        stop_observing()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, options.port))


def stop_observing() -> None:
    """Take out of this process what observes requests; the product itself has no such switch."""
    # Late: what they hold is replaced here and nowhere else.
    from zenzefi.gateway import entrance
    from zenzefi.web import middleware

    def nothing(*_arguments: Any) -> None:
        return None

    ids = Correlation("none", "0" * 32, "0" * 16)
    for kind, name in ((Counter, "inc"), (Gauge, "inc"), (Gauge, "set"), (Histogram, "observe")):
        setattr(kind, name, nothing)
    setattr(Correlation, "header_lines", lambda _self: "")  # noqa: B010  mypy knows that it is a method
    for module in (middleware, entrance):
        setattr(module, "correlate", lambda _headers: ids)  # noqa: B010
    setattr(middleware, "_take_note", nothing)  # noqa: B010
    setattr(entrance.Entrance, "_take_note", nothing)  # noqa: B010


async def _serve(settings: Settings, port: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with open_service(settings) as service:
        runner = HardenedRunner(service.public)
        await runner.setup()
        settle_memory()
        try:
            with socket.create_server((LOOPBACK, port), backlog=1024) as listener:
                await SharedSite(runner, listener).start()
                await stop.wait()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    main()
