"""Ids that tell which log lines, spans, jobs and upstream requests belong together: X-Request-ID and W3C Trace Context.

https://www.w3.org/TR/trace-context/ says what of traceparent and tracestate is to be believed and passed on.
"""

import os
import random
import re
from collections.abc import MutableMapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from multidict import CIMultiDict, MultiMapping, istr

REQUEST_ID_HEADER: Final = istr("X-Request-ID")
TRACEPARENT: Final = istr("traceparent")
TRACESTATE: Final = istr("tracestate")

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
# version, trace-id, parent-id, flags, and what a version after 00 may add behind another hyphen.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_INVALID_VERSION: Final = "ff"
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
# "sampled", and level 2's "random trace id"; the others mean nothing yet and must not be passed on (section 3.2.2.5).
_KNOWN_FLAGS: Final = 0x03

# What has to be passed on at least (section 3.3.1.5), and at most.
_MAX_STATE_CHARS: Final = 512
_MAX_STATE_MEMBERS: Final = 32
_STATE_MEMBER: Final = re.compile(
    r"[a-z0-9][_0-9a-z*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)

# Ids are no secrets, and the kernel's random numbers cost more than twice as much. That all bits of an id are 0, which
# would be invalid, is left to chance: 1 in 2**64.
_random: Final = random.Random(os.urandom(32))  # noqa: S311
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


class Correlation:
    """The ids of one request or one run of a job.

    ``span_id`` is our own part of the trace, the parent of what follows; ``parent_id`` is whose part caused ours, ""
    where the trace begins here. Nothing changes it once it is made; a frozen dataclass would take three times as long.
    """

    __slots__ = ("flags", "parent_id", "request_id", "span_id", "trace_id", "tracestate")

    def __init__(
        self, request_id: str, trace_id: str, span_id: str, parent_id: str = "", flags: int = 0, tracestate: str = ""
    ) -> None:
        self.request_id = request_id
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.flags = flags
        self.tracestate = tracestate

    @property
    def traceparent(self) -> str:
        """What names us as the parent."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def header_lines(self) -> str:
        """The header lines of a request that this one causes."""
        if self.tracestate:
            return f"traceparent: {self.traceparent}\r\ntracestate: {self.tracestate}\r\n"
        return f"traceparent: 00-{self.trace_id}-{self.span_id}-{self.flags:02x}\r\n"

    def document(self) -> dict[str, str]:
        """What a job takes along."""
        return {REQUEST_ID_HEADER: self.request_id, TRACEPARENT: self.traceparent, TRACESTATE: self.tracestate}


# Of the code that runs now: in a request, or in a run of a job.
CURRENT: Final[ContextVar[Correlation | None]] = ContextVar("correlation", default=None)


def correlate(headers: MultiMapping[str]) -> Correlation:
    """The ids of a request: those that it came with where they are valid, else new ones."""
    ids = f"{_random.getrandbits(320):080x}"
    given = headers.get(REQUEST_ID_HEADER)
    request_id = given if given is not None and _REQUEST_ID.fullmatch(given) else ids[:32]
    if TRACEPARENT in headers:
        parent = parse_traceparent(headers.getall(TRACEPARENT))
        if parent is not None:  # else its state is not believed, either
            trace_id, parent_id, flags = parent
            state = parse_tracestate(headers.getall(TRACESTATE)) if TRACESTATE in headers else ""
            return Correlation(request_id, trace_id, ids[64:], parent_id, flags, state)
    return Correlation(request_id, ids[32:64], ids[64:])


def correlate_job(document: object) -> Correlation:
    """The ids of a run of a job: from what ``document`` gave when it was enqueued, else new ones."""
    names = (REQUEST_ID_HEADER, TRACEPARENT, TRACESTATE)
    given = document if isinstance(document, dict) else {}
    return correlate(CIMultiDict((name, given[name]) for name in names if isinstance(given.get(name), str)))


def new_request_id() -> str:
    """An id that nobody has used: 128 random bits in hexadecimal."""
    return _random.randbytes(16).hex()


def add_ids(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: put the ids into a log line."""
    current = CURRENT.get()
    if current is not None:
        event.setdefault("request_id", current.request_id)
        event.setdefault("trace_id", current.trace_id)
    return event


def parse_traceparent(values: Sequence[str]) -> tuple[str, str, int] | None:
    """Trace id, parent id and flags of the one valid traceparent; None where it is to be ignored (section 3.2)."""
    if len(values) != 1:
        return None
    match = _TRACEPARENT.fullmatch(values[0].strip(" \t"))
    if match is None:
        return None
    version, trace_id, parent_id, flags, rest = match.groups()
    if version == _INVALID_VERSION or (version == "00" and rest is not None):
        return None
    if trace_id == _NO_TRACE or parent_id == _NO_SPAN:
        return None
    return trace_id, parent_id, int(flags, 16) & _KNOWN_FLAGS


def parse_tracestate(values: Sequence[str]) -> str:
    """The list of vendors' members, combined and without empty ones; "" where it is invalid or too long."""
    members = [stripped for value in values for member in value.split(",") if (stripped := member.strip(" \t"))]
    combined = ",".join(members)
    if len(combined) > _MAX_STATE_CHARS or len(members) > _MAX_STATE_MEMBERS:
        return ""
    if not all(_STATE_MEMBER.fullmatch(member) for member in members):
        return ""
    keys = {member.partition("=")[0] for member in members}
    return combined if len(keys) == len(members) else ""
