"""One web process: serves the two listening sockets it inherits until it is told to leave, drains, and exits with 0.

The supervisor runs it as ``python -m zenzefi.server.process``. It tells through a pipe either that it is ready or why
it could not start, so that the reason is printed once and not once per process. SIGTERM has it leave soon, RETIRE, once
a successor has taken over, with more patience. It dies with the supervisor, however that ends.

Modules that cost time or that may fail are imported late: the parent-death signal comes before everything.
"""

import argparse
import contextlib
import importlib
import os
import signal
import socket
import sys
import traceback
from io import FileIO
from typing import TYPE_CHECKING

from zenzefi.server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from zenzefi.server.service import Service
    from zenzefi.settings import Settings

    OpenService = Callable[[Settings], AbstractAsyncContextManager[Service]]

READY = b"ready\n"
RETIRE = signal.SIGUSR1
DEFAULT_SERVICE = "zenzefi.server.service:open_service"

# A client that reuses a connection in the very moment it is closed loses its request, and no server can help it. With a
# successor in place there is time: nearly every connection is used once more, and is told then that it closes.
_RETIRE_LINGER_S = 10.0

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MAX_DESCRIPTORS = 65_536
# How many more objects than were freed make the collector look: some 300 requests under way, 1 ms of its time.
_YOUNG_OBJECTS = 10_000


def main(arguments: list[str]) -> int:
    """Run the process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="zenzefi.server.process", description=(__doc__ or "").splitlines()[0])
    for name in ("parent", "public-fd", "internal-fd", "metrics-fd", "report-fd"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--service", default=DEFAULT_SERVICE)
    options = parser.parse_args(arguments)
    die_with(options.parent)
    # A terminal's Ctrl-C and hang-up are the supervisor's to act on; it asks with SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    report = FileIO(options.report_fd, "w")  # closed once the start is told of
    try:
        _run(options, report)
    except BaseException as error:  # noqa: BLE001  also what an import of new code raises; the supervisor reports it
        _tell(report, _reason(error))
        return 1
    return 0


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent`, the process that started it, is gone.

    It is SIGKILL: a supervisor that was killed cannot see to it that a process which hangs in its drain ever ends.
    """
    if sys.platform == "linux":
        import ctypes  # late: see the module docstring

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise SystemExit("the supervisor ended before its process began")


def _run(options: argparse.Namespace, report: FileIO) -> None:
    # Late: see the module docstring.
    import asyncio

    import uvloop

    from zenzefi.infra.instruments import REGISTRY
    from zenzefi.infra.logging import configure_logging
    from zenzefi.settings import Settings

    settings = Settings.from_env()
    configure_logging(settings.log_level, by_thread=True)
    REGISTRY.share(options.metrics_fd)
    _raise_descriptor_limit()
    module, _, function = options.service.partition(":")
    open_service: OpenService = getattr(importlib.import_module(module), function)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            _serve(
                settings,
                open_service,
                public=socket.socket(fileno=options.public_fd),
                internal=socket.socket(fileno=options.internal_fd),
                tell_ready=lambda: _tell(report, READY),
            )
        )


async def _serve(
    settings: "Settings",
    open_service: "OpenService",
    *,
    public: socket.socket,
    internal: socket.socket,
    tell_ready: "Callable[[], None]",
) -> None:
    # Late: see the module docstring.
    import asyncio

    import structlog

    from zenzefi.server.deadlines import Deadlines
    from zenzefi.server.runner import HardenedRunner
    from zenzefi.server.site import SharedSite

    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(open_service(settings))
        runners = []
        for application in (service.public, service.internal):
            runner = HardenedRunner(application)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            runners.append(runner)
        leave = asyncio.Event()

        def on_signal(linger_s: float, timeout_s: float) -> None:
            for runner in runners:
                runner.hurry(linger_s=linger_s, timeout_s=timeout_s)
            leave.set()

        # Not before: until here SIGTERM may simply kill, nothing has begun that could be lost.
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, on_signal, Deadlines().linger_s, settings.drain_timeout_s)
        loop.add_signal_handler(RETIRE, on_signal, _RETIRE_LINGER_S, settings.retire_timeout_s)
        settle_memory()
        for runner, listener in zip(runners, (public, internal), strict=True):
            await SharedSite(runner, listener).start()
        tell_ready()
        await leave.wait()
        service.on_drain()
        cut = await asyncio.gather(*(runner.drain() for runner in runners))
        if any(cut):
            structlog.get_logger(__name__).warning("drain_timed_out", connections_cut=sum(cut))


def settle_memory() -> None:
    """Tell the garbage collector that what is loaded stays for good, and that requests leave little for it.

    Full collections need not walk over the program with requests waiting. And requests make hundreds of objects that
    are freed by their reference counts; at Python's own threshold the collector looks at those that are under way again
    and again, for 6 % of the CPU time.
    """
    import gc  # late: see the module docstring

    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


def _raise_descriptor_limit() -> None:
    import resource  # late: see the module docstring

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _reason(error: BaseException) -> bytes:
    """Why the start failed: one sentence where we know, the whole traceback where we do not."""
    from zenzefi.errors import ZenzefiError  # late: see the module docstring
    from zenzefi.settings import SettingsError

    if isinstance(error, ServerError | SettingsError):
        return str(error).encode()
    if isinstance(error, ZenzefiError):
        causes = "".join(f" ({cause})" for cause in (error.__cause__,) if cause is not None)
        return f"{error.title()}.{causes}".encode()
    return "".join(traceback.format_exception(error)).encode()


def _tell(report: FileIO, text: bytes) -> None:
    if report.closed:  # it was told already that this process is ready
        sys.stderr.write(text.decode(errors="replace"))
        return
    with report, contextlib.suppress(BrokenPipeError):
        report.write(text[-16_384:])  # a pipe takes this much without a reader


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
