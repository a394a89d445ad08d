"""Which ids of a request are believed, by the W3C's Trace Context, and what is passed on."""

import io
import json
import logging

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tests.support.examples import unhurried
from zenzefi.infra.correlation import (
    CURRENT,
    Correlation,
    add_ids,
    correlate,
    correlate_job,
    parse_traceparent,
    parse_tracestate,
)

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (TRACEPARENT, 1),
        (f"00-{TRACE_ID}-{PARENT_ID}-00", 0),
        (f" 00-{TRACE_ID}-{PARENT_ID}-01\t", 1),
        (f"00-{TRACE_ID}-{PARENT_ID}-ff", 3),  # only the flags that mean something yet
        (f"01-{TRACE_ID}-{PARENT_ID}-01", 1),
        (f"cc-{TRACE_ID}-{PARENT_ID}-01-what-the-future-will-be-like", 1),
    ],
)
def test_valid_traceparents(value: str, flags: int) -> None:
    assert parse_traceparent([value]) == (TRACE_ID, PARENT_ID, flags)


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID}-01-more",
        f"00-{TRACE_ID}-{PARENT_ID}-01-",
        f"cc-{TRACE_ID}-{PARENT_ID}-01.more",
        f"00-{TRACE_ID[1:]}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID}-1",
        f"0-{TRACE_ID}-{PARENT_ID}-01",
        f"00_{TRACE_ID}_{PARENT_ID}_01",
        f"00-{TRACE_ID}-{PARENT_ID[:-1]}g-01",
        f"00-{TRACE_ID}-{PARENT_ID}-01\n",
        f"00-{TRACE_ID}-{'٣' * 16}-01",
    ],
)
def test_invalid_traceparents(value: str) -> None:
    assert parse_traceparent([value]) is None


def test_two_traceparents_are_none() -> None:
    assert parse_traceparent([TRACEPARENT, TRACEPARENT]) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["a=1", " b=2 , , c=3"], "a=1,b=2,c=3"),
        (["fw529a3039@dt=FfAAAA;x"], "fw529a3039@dt=FfAAAA;x"),
        ([""], ""),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["a=x=y"], ""),
        (["a=é"], ""),
        (["a"], ""),
        ([",".join(f"k{number}=v" for number in range(32))], ",".join(f"k{number}=v" for number in range(32))),
        ([",".join(f"k{number}=v" for number in range(33))], ""),
        (["a=" + "x" * 256, "b=" + "y" * 251], "a=" + "x" * 256 + ",b=" + "y" * 251),  # 512 in all
        (["a=" + "x" * 256, "b=" + "y" * 252], ""),
    ],
)
def test_tracestate(values: list[str], expected: str) -> None:
    assert parse_tracestate(values) == expected


def test_a_valid_trace_goes_on_with_a_part_of_our_own() -> None:
    ids = correlate(CIMultiDict({"X-Request-ID": "their-own", "Traceparent": TRACEPARENT, "TraceState": "a=1"}))
    assert (ids.request_id, ids.trace_id, ids.parent_id) == ("their-own", TRACE_ID, PARENT_ID)
    assert ids.span_id != PARENT_ID
    assert ids.header_lines() == f"traceparent: 00-{TRACE_ID}-{ids.span_id}-01\r\ntracestate: a=1\r\n"


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, "a/b", "ü", 'a"b'])
def test_what_is_invalid_is_replaced(request_id: str) -> None:
    ids = correlate(CIMultiDict({"X-Request-ID": request_id, "traceparent": TRACEPARENT + "0", "tracestate": "a=1"}))
    assert ids.request_id != request_id
    assert (ids.parent_id, ids.tracestate) == ("", "")
    assert parse_traceparent([ids.traceparent]) == (ids.trace_id, ids.span_id, 0)
    assert ids.trace_id != TRACE_ID


def test_new_ids_are_never_the_same() -> None:
    made = [correlate(CIMultiDict()) for _ in range(10_000)]
    for name in ("request_id", "trace_id", "span_id"):
        assert len({getattr(ids, name) for ids in made}) == len(made)


@unhurried
@given(
    st.one_of(
        st.none(), st.text(), st.dictionaries(st.text() | st.sampled_from(["traceparent"]), st.text() | st.none())
    )
)
def test_a_job_runs_with_whatever_stands_in_its_envelope(document: object) -> None:
    ids = correlate_job(document)
    assert parse_traceparent([ids.traceparent]) is not None


def test_a_job_takes_the_ids_of_its_request_along() -> None:
    request = Correlation("r-1", TRACE_ID, PARENT_ID, flags=1, tracestate="a=1")
    run = correlate_job(json.loads(json.dumps(request.document())))
    assert (run.request_id, run.trace_id, run.parent_id) == ("r-1", TRACE_ID, PARENT_ID)
    assert (run.flags, run.tracestate) == (1, "a=1")
    assert run.span_id != PARENT_ID


def test_each_log_line_carries_the_ids_of_what_runs() -> None:
    stream = io.StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[add_ids, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    token = CURRENT.set(Correlation("r-1", TRACE_ID, PARENT_ID))
    try:
        log.info("during")
    finally:
        CURRENT.reset(token)
    log.info("after")
    during, after = map(json.loads, stream.getvalue().splitlines())
    assert (during["request_id"], during["trace_id"]) == ("r-1", TRACE_ID)
    assert "request_id" not in after
