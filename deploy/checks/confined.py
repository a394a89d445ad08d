"""Runs a program as systemd would confine it: no new privileges, no memory written and executed, listed calls only.

python confined.py --calls FILE [--listen DESCRIPTOR] -- PROGRAM ARGUMENTS…. Of what systemd does this is the part that
needs no root, and which a program cannot but notice. Only the standard library: it runs with any interpreter.
"""

import argparse
import ctypes
import errno
import os
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_PR_SET_MDWE = 65
_PR_MDWE_REFUSE_EXEC_GAIN = 1
_SCMP_ACT_ALLOW = 0x7FFF0000  # seccomp.h
_SCMP_ACT_ERRNO = 0x00050000
_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START


def confine(calls: list[str]) -> None:
    """Give up for good whatever the unit forbids; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    # Kernels before 6.3 do not know it.
    if libc.prctl(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0 and ctypes.get_errno() != errno.EINVAL:
        raise OSError(ctypes.get_errno(), "PR_SET_MDWE")
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(_SCMP_ACT_ERRNO | errno.EPERM)))
    for name in calls:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # one that this architecture has
            _must(seccomp.seccomp_rule_add(rules, ctypes.c_uint32(_SCMP_ACT_ALLOW), number, 0), name)
    _must(seccomp.seccomp_load(rules), "the filter")


def _must(status: int, what: str) -> None:
    if status != 0:
        raise OSError(-status, f"libseccomp refused {what}")


def main() -> None:
    """Confine this process and become the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=Path, required=True)
    parser.add_argument("--listen", type=int)
    parser.add_argument("program", nargs="+")
    options = parser.parse_args()
    if options.listen is not None:
        os.dup2(options.listen, _FIRST_DESCRIPTOR)
        os.environ["LISTEN_PID"] = str(os.getpid())
    confine(options.calls.read_text(encoding="utf-8").split())
    os.execvp(options.program[0], options.program)  # noqa: S606


if __name__ == "__main__":
    main()
