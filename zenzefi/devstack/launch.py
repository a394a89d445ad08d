"""Becomes a server: ties this process's life to its parent's, gives up root, then executes the program.

ChildProcess runs this file as `python -I -S launch.py PARENT_PID DEATH_SIGNAL UID:GID|- PROGRAM ARGUMENTS…`. It is a
program of its own, and not a `preexec_fn`, because a `preexec_fn` runs Python between fork and exec, where a lock that
another thread held at the fork is held for ever. It imports nothing of the project, so that it starts in milliseconds.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Execute the program that `arguments` name; returns only by an exception."""
    parent_pid, death_signal, user, *command = arguments
    if sys.platform != "linux":
        sys.exit("The embedded stack runs on Linux only.")
    libc = ctypes.CDLL(None, use_errno=True)
    if user != "-":
        uid, gid = (int(part) for part in user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # A shell starts background jobs with SIGINT ignored, and that survives exec: a server must not inherit it.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # After setuid, which clears the parent-death signal (prctl(2)); exec keeps it.
    if libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent_pid):
        sys.exit("the parent ended before its server began")
    os.execv(command[0], command)  # noqa: S606  this is what the file is for


if __name__ == "__main__":
    main(sys.argv[1:])
