"""Secrets never reach the log, under whatever name or in whatever text they come."""

import io
import json
import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import unhurried
from zenzefi.infra import logging as our_logging
from zenzefi.infra.lines import MAX_WAITING, LineWriter
from zenzefi.infra.logging import REDACTED, configure_logging, log_request, redact

TOKEN = "znz_" + "Ab3-" * 12
STRIPE_KEY = "sk_test_" + "4eC39HqLyjWD"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlMTIz"


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged, as text."""
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    stream = io.StringIO()
    monkeypatch.setattr(our_logging, "_request_lines", None)
    configure_logging("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)


def test_secrets_are_redacted_by_name_and_by_shape(stream: io.StringIO) -> None:
    structlog.get_logger("test").warning(
        "got " + TOKEN,
        password="hunter2",
        headers={"Authorization": "Bearer " + JWT, "X-Access-Token": TOKEN},
        note=f"see {JWT} and {STRIPE_KEY} and postgresql://zenzefi:s3cr3t@db/zenzefi",
        token_id="0193-visible",
    )
    written = stream.getvalue()
    for secret in (TOKEN, JWT, STRIPE_KEY, "hunter2", "s3cr3t"):
        assert secret not in written
    line = json.loads(written)
    assert line["token_id"] == "0193-visible"
    assert line["password"] == REDACTED


def test_records_and_tracebacks_of_the_standard_library_are_redacted(stream: io.StringIO) -> None:
    try:
        raise ValueError(f"bad token {TOKEN}")
    except ValueError:
        logging.getLogger("some.library").exception("failed with %s", TOKEN)
    assert TOKEN not in stream.getvalue()
    assert "ValueError" in json.loads(stream.getvalue())["exception"]


def test_plain_values_pass_unchanged() -> None:
    assert redact({"route": "/api/v1/tokens/{id}", "status": 200}) == {"route": "/api/v1/tokens/{id}", "status": 200}


def request_lines() -> LineWriter[tuple[dict[str, Any], float]]:
    lines = our_logging._request_lines
    assert lines is not None
    return lines


def test_line_of_a_request_says_what_structlog_would(stream: io.StringIO) -> None:
    fields = {
        "request_id": "a1",
        "route": "/api/v1/proxy/{path:.*}",
        "status": 200,
        "duration_ms": 1.5,
        "user_id": None,
    }
    log_request(dict(fields))
    request_lines().flush()
    structlog.get_logger("zenzefi.request").info("request", **fields)
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    for line in (ours, theirs):
        assert line.pop("timestamp").endswith("Z")
    assert ours == theirs


def test_secrets_in_the_line_of_a_request_are_redacted(stream: io.StringIO) -> None:
    log_request({"request_id": TOKEN, "path": f"/x?next=https://u:s3cr3t@host/{JWT}"})
    log_request({"request_id": "a", "password": "hunter2", "headers": {"Authorization": "Bearer hunter2"}})
    request_lines().flush()
    written = stream.getvalue()
    for secret in (TOKEN, JWT, "hunter2", "s3cr3t"):
        assert secret not in written
    assert [json.loads(line)["event"] for line in written.splitlines()] == ["request", "request"]


_TEXTS = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from([TOKEN, TOKEN[:8], JWT, "eyJ", "znr_", "://", "a:b@", "\\", "/", '"', "\n", "é", " "])
    ).map("".join),
)
_NUMBERS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
_VALUES = st.one_of(_TEXTS, st.none(), _NUMBERS, st.booleans(), st.dictionaries(_TEXTS, _TEXTS, max_size=2))


@unhurried
@given(
    st.dictionaries(st.one_of(st.sampled_from(["password", "token_id", "path", "event"]), _TEXTS), _VALUES, max_size=4)
)
def test_quick_way_redacts_exactly_what_the_long_way_does(fields: dict[str, object]) -> None:
    redacted = {key: redact(value, key=key) for key, value in fields.items()}
    ours = {
        "event": "request",
        "logger": "zenzefi.request",
        "level": "info",
        "timestamp": "2026-01-31T12:00:00.000000Z",
    }
    assert json.loads(our_logging._request_line(fields, ours["timestamp"])) == redacted | ours


class _StuckStream(io.StringIO):
    """A stream whose reader stands still until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        self.go_on.wait(60)
        return super().write(text)


def test_stuck_stream_holds_no_request_up_and_the_loss_is_told(caplog: pytest.LogCaptureFixture) -> None:
    stream, sent = _StuckStream(), 3 * MAX_WAITING
    writer = LineWriter(logging.StreamHandler(stream), word=str)
    for number in range(sent):
        writer.write(f"line {number}")
    assert stream.getvalue() == "", "who wrote them all did not wait for the stream"
    stream.go_on.set()
    writer.flush()
    losses = [json.loads(record.message) for record in caplog.records]
    dropped = sum(loss["lines"] for loss in losses if loss["event"] == "log_lines_dropped")
    assert dropped > 0
    assert len(stream.getvalue().splitlines()) + dropped == sent


def test_who_logs_by_the_handler_itself_does_not_wait_for_all_lines_of_requests() -> None:
    handler: logging.StreamHandler[TextIO] = logging.StreamHandler(io.StringIO())
    begun, asked, given = threading.Event(), threading.Event(), threading.Event()
    worded: list[int] = []

    def word(number: int) -> str:
        begun.set()
        asked.wait(10)
        if not given.is_set():
            time.sleep(0.0002)
        worded.append(number)
        return str(number)

    writer = LineWriter(handler, word=word)
    for number in range(MAX_WAITING // 2):
        writer.write(number)
    begun.wait(10)
    asked.set()
    handler.acquire()
    before = len(worded)
    given.set()
    handler.release()
    assert before < MAX_WAITING // 2


def write_lines(descriptor: int, count: int) -> None:
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        writer = LineWriter(logging.StreamHandler(stream), word=_LINE.format)
        for number in range(count):
            writer.write(number)
        writer.flush()


def write_lines_at_once(descriptor: int, count: int) -> None:
    """The same, with all lines there before the first is written, however slow this machine is."""
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        handler: logging.StreamHandler[TextIO] = logging.StreamHandler(stream)
        assert handler.lock is not None
        with handler.lock:  # keeps the writer's own thread from it
            writer = LineWriter(handler, word=_LINE.format)
            for number in range(count):
                writer.write(number)
            writer.flush()


_LINE = "{:05} " + 500 * "x"


def test_each_write_to_a_pipe_is_of_whole_lines_and_not_torn_by_other_processes() -> None:
    # In its packet mode a read of the pipe gives what one write put there, or PIPE_BUF bytes of it.
    reader, writer = os.pipe2(os.O_DIRECT)
    write_lines_at_once(writer, 100)
    packets = list(iter(lambda: os.read(reader, 2 * select.PIPE_BUF), b""))
    os.close(reader)
    assert all(packet.endswith(b"\n") for packet in packets)
    assert len(packets) == math.ceil(100 / (select.PIPE_BUF // 507))
    assert b"".join(packets).decode().split("\n") == [*map(_LINE.format, range(100)), ""]


def test_several_writers_of_one_file_leave_each_others_lines_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    descriptors = [os.open(path, os.O_WRONLY | os.O_APPEND) for _ in range(4)]
    threads = [threading.Thread(target=write_lines, args=(descriptor, 1000)) for descriptor in descriptors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_text().splitlines()) == sorted(4 * [*map(_LINE.format, range(1000))])


def test_line_that_cannot_be_worded_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    writer: LineWriter[Callable[[], str]] = LineWriter(logging.StreamHandler(stream), word=lambda entry: entry())
    for entry in (lambda: "one", lambda: str(1 / 0), lambda: "two"):
        writer.write(entry)
    writer.flush()
    assert stream.getvalue() == "one\ntwo\n"
    assert "log_line_not_worded" in caplog.text


def test_line_appears_by_itself_in_time(stream: io.StringIO) -> None:
    log_request({"request_id": "a1"})
    deadline = time.monotonic() + 30
    while not stream.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert json.loads(stream.getvalue())["request_id"] == "a1"
