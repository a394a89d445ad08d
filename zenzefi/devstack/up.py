"""`zenzefi dev up`: the development stack in the foreground, from its first line to the exit code."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import NoReturn

from zenzefi.devstack.errors import DevStackError
from zenzefi.devstack.home import Home
from zenzefi.devstack.plan import home_directory, make_plan
from zenzefi.devstack.stack import DevStack
from zenzefi.devstack.summary import print_failure, print_starting, print_stopped, print_summary, print_warning
from zenzefi.infra.migrations import MigrationError
from zenzefi.settings import SettingsError

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(BaseException):
    """SIGINT, SIGTERM or SIGHUP: no error, and nothing but the very top may swallow it."""


def dev_up(environ: Mapping[str, str] | None = None) -> int:
    """Run the stack in the foreground until a signal stops it or one of its processes dies.

    Settings come from `environ` (the process's own environment unless given), the folder from its ZENZEFI_HOME.
    Returns the exit code: 0 stopped as asked, 1 something failed (which was said on standard error).
    Must be called from the main thread: it handles signals, and its children live as long as that thread.
    """
    environ = os.environ if environ is None else environ
    home = Home(home_directory(environ))
    with _signals_raising_stop():
        try:
            with contextlib.closing(home.open()):
                _run(home, environ)
        except StopRequested:
            print_stopped()
            return 0
        except (DevStackError, MigrationError, SettingsError) as error:
            print_failure(str(error))
        except OSError as error:
            print_failure(f"{error}. Is the disk of {home.directory} full or read-only?")
        return 1


def _run(home: Home, environ: Mapping[str, str]) -> NoReturn:
    started = time.monotonic()
    print_starting(home.directory)
    stack = DevStack(home, make_plan(home, environ))
    try:
        stack.start()
        token, problem = stack.find_demo_token()
        if problem:
            print_warning(problem)
        print_summary(stack.describe(token=token), seconds=time.monotonic() - started)
        stack.watch()
    finally:
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it running
        stack.stop()


@contextlib.contextmanager
def _signals_raising_stop() -> Iterator[None]:
    """Raise StopRequested in the main thread at a signal that asks to stop, wherever it is."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise StopRequested

    previous = {}
    for number in _STOP_SIGNALS:
        # nohup ignores SIGHUP, and that must stay so. A shell ignores SIGINT for background jobs: there it may count.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
