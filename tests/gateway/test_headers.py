"""Header rules, as pure functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from tests.support.examples import unhurried
from zenzefi.gateway.headers import (
    CREDENTIALS,
    HOP_BY_HOP,
    Provenance,
    answer_headers,
    framing_lines,
    request_head,
    upgrade_of,
)

PROVENANCE = Provenance(
    client_ip="203.0.113.9", scheme="https", host="gateway.example", user_id="u", token_id="t", request_id="r"
)
OURS = [
    (b"X-Forwarded-For", b"203.0.113.9"),
    (b"X-Forwarded-Proto", b"https"),
    (b"X-Forwarded-Host", b"gateway.example"),
    (b"X-User-Id", b"u"),
    (b"X-Token-Id", b"t"),
    (b"X-Request-ID", b"r"),
]

Field = tuple[bytes, bytes]


def forwarded(*headers: Field, framing: bytes = b"") -> list[Field]:
    """The fields of the head that goes upstream, but for Host and ours, which are checked here."""
    head = request_head("GET", b"/x?y", authority=b"up:1", headers=headers, provenance=PROVENANCE, framing=framing)
    start, host, *lines, end, empty = head.split(b"\r\n")
    assert (start, host, end, empty) == (b"GET /x?y HTTP/1.1", b"Host: up:1", b"", b"")
    fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    ours = len(fields) - framing.count(b"\r\n")
    assert fields[ours - len(OURS) : ours] == OURS
    return fields[: ours - len(OURS)] + fields[ours:]


def test_end_to_end_fields_keep_order_spelling_bytes_and_duplicates() -> None:
    headers = ((b"cookie", b"a=1"), (b"X-Ab", b"\xff\t\xe9"), (b"COOKIE", b"b=2"), (b"Accept", b""))
    assert forwarded(*headers) == list(headers)


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP | CREDENTIALS))
def test_hop_by_hop_fields_and_credentials_end_here(name: bytes) -> None:
    assert forwarded((name.title(), b"x"), (b"Accept", b"*/*")) == [(b"Accept", b"*/*")]


@pytest.mark.parametrize(
    "name",
    [
        b"X-Forwarded-For",
        b"x-forwarded-prefix",
        b"X_Forwarded_Proto",
        b"x_user_id",
        b"Traceparent",
        b"tracestate",
        b"X-User_Id",
        b"X_TOKEN_ID",
        b"X_Request_ID",
        b"X_Access_Token",
        b"Forwarded",
        b"X-Real-IP",
        b"Host",
        b"Content-Length",
        b"content_length",
        b"Transfer_Encoding",
        b"Expect",
        b"X-Original-URL",
        b"X-Rewrite-Url",
        b"X-HTTP-Method",
        b"X-HTTP-Method-Override",
        b"x_http_method_override",
        b"X-Method-Override",
    ],
)
def test_nobody_speaks_in_our_name_or_changes_what_was_checked(name: bytes) -> None:
    assert forwarded((name, b"evil")) == []


def test_other_names_with_underscores_pass() -> None:
    assert forwarded((b"x_custom", b"1")) == [(b"x_custom", b"1")]


def test_fields_that_connection_names_end_here_but_ours_do_not() -> None:
    headers = (
        (b"Connection", b"close, X-Hop,  x-user-id"),
        (b"Keep", b"1"),
        (b"x-hop", b"1"),
        (b"connection", b"X-Other,host,X-Forwarded-For"),
        (b"X-Other", b"1"),
    )
    assert forwarded(*headers) == [(b"Keep", b"1")]


@pytest.mark.parametrize(
    ("framing", "lines"),
    [
        (framing_lines(content_length=None), b""),
        (framing_lines(content_length=0), b"Content-Length: 0\r\n"),
        (framing_lines(content_length=None, chunked=True), b"Transfer-Encoding: chunked\r\n"),
        (framing_lines(content_length=3, expect_continue=True), b"Content-Length: 3\r\nExpect: 100-continue\r\n"),
        (
            framing_lines(content_length=None, upgrade="websocket"),
            b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
        ),
    ],
)
def test_framing_is_stated_anew(framing: bytes, lines: bytes) -> None:
    assert framing == lines
    assert len(forwarded((b"Content-Length", b"99"), framing=framing)) == lines.count(b"\r\n")


TOKENS = st.text("abcXYZ-_", min_size=1, max_size=12).map(str.encode)
NAMES = TOKENS | st.sampled_from(
    [
        b"Connection",
        b"X-User-Id",
        b"x_user_id",
        b"X-Forwarded-For",
        b"TE",
        b"X-Access-Token",
        b"X_ACCESS-token",
        b"Host",
    ]
)
VALUES = st.lists(NAMES, max_size=3).map(b", ".join)


@unhurried
@given(st.lists(st.tuples(NAMES, VALUES), max_size=12))
def test_whatever_comes_ours_are_there_once_and_theirs_never(headers: list[Field]) -> None:
    kept = forwarded(*headers)
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    for name, _ in kept:
        folded = name.lower().replace(b"_", b"-")
        assert folded not in HOP_BY_HOP | CREDENTIALS
        assert folded not in {ours.lower() for ours, _ in OURS} | {b"host"}
        assert name.lower() not in named
    # Nothing is invented or moved.
    remaining = iter(headers)
    assert all(any(field == other for other in remaining) for field in kept)


def answered(*headers: tuple[str, str]) -> list[tuple[str, str]]:
    return answer_headers("OK", CIMultiDict(headers))


def test_answers_keep_order_and_duplicates() -> None:
    headers = [("Set-Cookie", "a=1"), ("Server", "up/1"), ("set-cookie", "b=2"), ("Content-Encoding", "gzip")]
    assert answered(*headers) == headers


@pytest.mark.parametrize(
    "name",
    ["Keep-Alive", "Upgrade", "X-Request-ID", "X-Token-Expires-At", "Strict-Transport-Security", "Alt-Svc"],
)
def test_answers_do_not_speak_in_our_name(name: str) -> None:
    assert answered((name, "x")) == []


def test_fields_that_the_answers_connection_names_end_here_but_its_length_does_not() -> None:
    headers = (("Connection", "x-hop, Content-Length"), ("X-Hop", "1"), ("Content-Length", "2"), ("connection", "X-B"))
    assert answered(*headers, ("X-B", "2")) == [("Content-Length", "2")]


@pytest.mark.parametrize("value", ["a\rb", "a\nX: y", "a\x00b", "\x7f"])
def test_control_characters_of_an_answer_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        answered(("X-A", value))
    with pytest.raises(ValueError, match="control character"):
        answer_headers(value, CIMultiDict())


@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip", "identity", ""])
def test_transfer_codings_that_were_not_asked_for_are_refused(coding: str) -> None:
    with pytest.raises(ValueError, match="transfer coding"):
        answered(("Transfer-Encoding", coding))
    assert answered(("Transfer-Encoding", "Chunked")) == []


def test_tabs_and_bytes_that_are_not_utf8_pass() -> None:
    assert answered(("X-A", "a\tb\udce9é"))[0] == ("X-A", "a\tb\udce9é")


@pytest.mark.parametrize(
    ("headers", "protocol"),
    [
        ([("Upgrade", "WebSocket "), ("Connection", "keep-alive, Upgrade")], "websocket"),
        ([("Upgrade", "websocket"), ("Connection", "keep-alive"), ("Connection", "upgrade")], "websocket"),
        ([("Upgrade", "websocket"), ("Connection", "keep-alive")], ""),
        ([("Connection", "upgrade")], ""),
        ([], ""),
    ],
)
def test_an_upgrade_is_asked_for_in_both_fields(headers: list[tuple[str, str]], protocol: str) -> None:
    assert upgrade_of(CIMultiDict(headers)) == protocol
