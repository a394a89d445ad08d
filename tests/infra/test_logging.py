"""Secrets never reach the log, under whatever name or in whatever text they come."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from zenzefi.infra.logging import REDACTED, configure_logging, redact

TOKEN = "znz_" + "Ab3-" * 12
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlMTIz"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged, as text."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_secrets_are_redacted_by_name_and_by_shape(stream: io.StringIO) -> None:
    structlog.get_logger("test").warning(
        "got " + TOKEN,
        password="hunter2",
        headers={"Authorization": "Bearer " + JWT, "X-Access-Token": TOKEN},
        note=f"see {JWT} and postgresql://zenzefi:s3cr3t@db/zenzefi",
        token_id="0193-visible",
    )
    written = stream.getvalue()
    for secret in (TOKEN, JWT, "hunter2", "s3cr3t"):
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
