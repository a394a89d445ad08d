"""Secrets never reach the log, under whatever name or in whatever text they come."""

import io
import json
import logging
import math
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import unhurried
from tests.support.serving import ROOT
from zenzefi.infra import logging as our_logging
from zenzefi.infra.lines import MAX_WAITING, LineWriter
from zenzefi.infra.logging import REDACTED, configure_logging, log_request, redact

TOKEN = "znz_" + "Ab3-" * 12
STRIPE_KEY = "sk_test_" + "4eC39HqLyjWD"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlMTIz"


@pytest.fixture
def restored_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logging is as it was, afterwards."""
    root = logging.getLogger()
    handlers, level, config = root.handlers[:], root.level, structlog.get_config()
    monkeypatch.setattr(our_logging, "_request_lines", None)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**config)


@pytest.fixture
def stream(restored_logging: None) -> io.StringIO:
    """What is logged, as text."""
    stream = io.StringIO()
    configure_logging("info", stream)
    return stream


@pytest.fixture
def written(restored_logging: None, tmp_path: Path) -> Iterator[Path]:
    """What is logged in a process that serves requests, once its writer is closed."""
    path = tmp_path / "log"
    with path.open("w") as stream:
        configure_logging("info", stream, by_thread=True)
        yield path
        request_lines().close(timeout_s=60)


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


def request_lines() -> LineWriter[our_logging.Entry]:
    lines = our_logging._request_lines
    assert lines is not None
    return lines


def test_line_of_a_request_says_what_structlog_would(written: Path) -> None:
    fields = {
        "request_id": "a1",
        "route": "/api/v1/proxy/{path:.*}",
        "status": 200,
        "duration_ms": 1.5,
        "user_id": None,
    }
    log_request(dict(fields))
    structlog.get_logger("zenzefi.request").info("request", **fields)
    request_lines().close(timeout_s=60)
    ours, theirs = map(json.loads, written.read_text().splitlines())
    for line in (ours, theirs):
        assert line.pop("timestamp").endswith("Z")
    assert ours == theirs


def test_secrets_in_the_line_of_a_request_are_redacted(written: Path) -> None:
    log_request({"request_id": TOKEN, "path": f"/x?next=https://u:s3cr3t@host/{JWT}"})
    log_request({"request_id": "a", "password": "hunter2", "headers": {"Authorization": "Bearer hunter2"}})
    request_lines().close(timeout_s=60)
    text = written.read_text()
    for secret in (TOKEN, JWT, "hunter2", "s3cr3t"):
        assert secret not in text
    assert [json.loads(line)["event"] for line in text.splitlines()] == ["request", "request"]


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


Line = TypeVar("Line")


def read_all(reader: int, descriptor: int, writer: LineWriter[Line]) -> str:
    """Read a pipe, but now, until the writer has written all."""
    with ThreadPoolExecutor(1) as pool, os.fdopen(reader, encoding="ascii") as stream:
        text = pool.submit(stream.read)
        writer.close(timeout_s=60)
        os.close(descriptor)
        return text.result()


@pytest.mark.parametrize("is_blocking", [True, False])
def test_stuck_reader_holds_no_request_up_and_the_loss_is_told(
    is_blocking: bool, caplog: pytest.LogCaptureFixture
) -> None:
    reader, descriptor = os.pipe()
    os.set_blocking(descriptor, is_blocking)
    writer, sent = LineWriter(descriptor, word=_LINE.format), 3 * MAX_WAITING
    for number in range(sent):
        writer.write(number)  # which would not come back if it waited for the reader
    lines = read_all(reader, descriptor, writer).splitlines()
    assert all(line == _LINE.format(int(line[:5])) for line in lines)
    losses = [json.loads(record.message) for record in caplog.records]
    dropped = sum(loss["lines"] for loss in losses if loss["event"] == "log_lines_dropped")
    assert dropped > 0
    assert len(lines) + dropped == sent


def test_stuck_reader_holds_nobody_up_who_logs_anything(restored_logging: None) -> None:
    reader, descriptor = os.pipe()
    with open(descriptor, "w", encoding="ascii", closefd=False) as stream:
        configure_logging("info", stream, by_thread=True)
    for number in range(2000):
        structlog.get_logger("test").warning("warned", note=100 * "x")
        log_request({"number": number})
    lines = list(map(json.loads, read_all(reader, descriptor, request_lines()).splitlines()))
    assert [line["event"] for line in lines] == 2000 * ["warned", "request"]
    assert [line["number"] for line in lines[1::2]] == list(range(2000))


def test_process_writes_all_before_it_ends_and_ends_where_nobody_reads() -> None:
    program = """if True:
        import structlog
        from zenzefi.infra.logging import configure_logging, log_request
        configure_logging("info", by_thread=True)
        for number in range(2000):
            structlog.get_logger("test").error("failed", number=number, note=100 * "x")
            log_request({"number": number})
    """
    patient = """if True:
        from functools import partialmethod
        from zenzefi.infra.lines import LineWriter
        LineWriter.close = partialmethod(LineWriter.close, timeout_s=60)
    """
    # Where the machine stands still the reader does, too.
    command = [sys.executable, "-c", f"{patient}\n{program}"]
    read = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, check=True, timeout=120)
    numbers = [json.loads(line)["number"] for line in read.stderr.splitlines()]
    assert numbers == [number for number in range(2000) for _ in range(2)]
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE) as unread:
        assert unread.wait(60) == 0


def write_lines(descriptor: int, count: int) -> None:
    writer = LineWriter(descriptor, word=_LINE.format)
    for number in range(count):
        writer.write(number)
    writer.close(timeout_s=60)
    os.close(descriptor)


_LINE = "{:05} " + 500 * "x"


def test_each_write_to_a_pipe_is_of_whole_lines_and_not_torn_by_other_processes() -> None:
    # In its packet mode a read of the pipe gives what one write put there, or PIPE_BUF bytes of it.
    reader, descriptor = os.pipe2(os.O_DIRECT)
    is_first_worded, are_all_there = threading.Event(), threading.Event()

    def word(number: int) -> str:
        is_first_worded.set()
        are_all_there.wait(60)
        return _LINE.format(number)

    writer = LineWriter(descriptor, word=word)
    writer.write(0)
    is_first_worded.wait(60)
    for number in range(1, 100):  # all at once, however slow this machine is
        writer.write(number)
    are_all_there.set()
    writer.close(timeout_s=60)
    os.close(descriptor)
    packets = list(iter(lambda: os.read(reader, 2 * select.PIPE_BUF), b""))
    os.close(reader)
    assert all(packet.endswith(b"\n") for packet in packets)
    assert len(packets) == 1 + math.ceil(99 / (select.PIPE_BUF // 507))
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
    reader, descriptor = os.pipe()
    writer: LineWriter[Callable[[], str]] = LineWriter(descriptor, word=lambda entry: entry())
    for entry in (lambda: "one", lambda: str(1 / 0), lambda: "two"):
        writer.write(entry)
    assert read_all(reader, descriptor, writer) == "one\ntwo\n"
    assert "log_line_not_worded" in caplog.text


def test_line_appears_by_itself_in_time(written: Path) -> None:
    log_request({"request_id": "a1"})
    deadline = time.monotonic() + 30
    while not written.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert json.loads(written.read_text())["request_id"] == "a1"
