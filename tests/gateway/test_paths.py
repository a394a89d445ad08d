"""Path canonicalisation: one reading, or a refusal."""

import re
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as st

from tests.support.examples import unhurried
from zenzefi.gateway.errors import BadPath
from zenzefi.gateway.paths import CanonicalPath, canonicalise


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        ("/", "/"),
        ("/certificates/filter", "/certificates/filter"),
        ("/certificates/", "/certificates/"),
        ("/a-b_c.d~e/!$&'()*+,=:@", "/a-b_c.d~e/!$&'()*+,=:@"),
        ("/%61%2D%7e", "/a-~"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a%20b", "/a%20b"),
        ("/100%25", "/100%25"),
        ("/a%25zz", "/a%25zz"),
        ("/a%3fb", "/a%3Fb"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/.", "/"),
        ("/a/../", "/"),
        ("/...", "/..."),
        ("/.hidden/..b", "/.hidden/..b"),
    ],
)
def test_a_safe_path_has_one_reading(raw: str, canonical: str) -> None:
    assert canonicalise(raw) == CanonicalPath(canonical)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "certificates",
        "*",
        "http://other/path",
        "/..",
        "/../a",
        "/a/../../b",
        "/%2e%2e/a",
        "/.%2e/a",
        "/a/%2E",
        "/a%2fb",
        "/a%2Fb",
        "/a\\b",
        "/a%5cb",
        "/a%00",
        "/a\x00",
        "/a%0d%0aX: y",
        "/a%7f",
        "/a b",
        "/a\tb",
        "/a;v=1",
        "/..;/a",
        "/a%3bv=1",
        "/%252e%252e/a",
        "/a%252fb",
        "/%25%32%66",
        "/%25u002f",
        "//a",
        "/a//b",
        "/a//",
        "/a/.//b",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%u002f",
        "/a#b",
        "/caf\udcc3\udca9",
        "/café",
        "/%c0%af",
        "/%e0%80%af",
        "/%ff",
        "/%c2%85",
        '/a"b',
        "/a<b>",
        "/a|b",
        "/a{b}",
    ],
)
def test_a_path_that_servers_may_read_differently_is_refused(raw: str) -> None:
    with pytest.raises(BadPath) as refused:
        canonicalise(raw)
    assert (refused.value.status, refused.value.code) == (400, "bad_path")
    assert refused.value.detail


@pytest.mark.parametrize("query", ["", "a=1", "%2e%2e/%2f;%zz", "a=\udce9", "a=é&b=//..", "?", "a\\b|{}"])
def test_the_query_is_kept_byte_for_byte(query: str) -> None:
    canonical = canonicalise(f"/a/../b?{query}")
    assert canonical.query == query
    assert canonical.target == b"/b?" + query.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("query", ["a b", "a=1#b", "a\r\nX: y", "a\x00", "a\x7f"])
def test_a_query_that_would_end_the_request_line_is_refused(query: str) -> None:
    with pytest.raises(BadPath):
        canonicalise(f"/a?{query}")


def test_a_path_without_a_query_has_no_question_mark() -> None:
    assert canonicalise("/a").target == b"/a"
    assert canonicalise("/a?").target == b"/a?"


# Pieces that are likely to pass, or to pass in some company and not in another, next to plain noise.
HARMLESS = [
    "a",
    "Z",
    "0",
    "25",
    "2e",
    "2f",
    "u002f",
    "..",
    ".",
    "~",
    ":",
    "@",
    "&",
    "=",
    "?",
    "%41",
    "%2D",
    "%20",
    "%c3%a9",
]
DOUBTFUL = ["/", "%25", "%2e", "%2f", "%5c", "%", ";", "%3b", "%00", "%252e", "\\", "%c0%af", "#", "é"]
SEGMENTS = st.lists(st.sampled_from(HARMLESS), max_size=3).map("".join)
NOISE = st.sampled_from(DOUBTFUL) | st.characters()
PATHS = st.lists(SEGMENTS | SEGMENTS | SEGMENTS | SEGMENTS | NOISE, max_size=6).map(lambda parts: "/" + "/".join(parts))

found_within_paths = settings(unhurried, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


@found_within_paths
@given(PATHS)
@example("/a%25%34%31")
@example("/%2%35")
def test_a_canonical_path_is_canonical(raw: str) -> None:
    once = accepted(raw)
    twice = canonicalise(once.target.decode("utf-8", "surrogateescape"))
    assert twice == once


@found_within_paths
@given(PATHS)
def test_a_canonical_path_keeps_its_structure_however_often_it_is_decoded(raw: str) -> None:
    path = accepted(raw).path
    shape = path.count("/")
    for _ in range(4):
        assert path.startswith("/")
        assert path.count("/") == shape
        assert not re.search(r"[\\;\x00-\x1f\x7f]|//", path)
        assert not {".", ".."} & set(path.split("/"))
        assert unquote_to_bytes(path).decode("utf-8") is not None
        path = unquote(path)


@found_within_paths
@given(PATHS)
def test_a_canonical_path_is_what_the_rfc_makes_of_it(raw: str) -> None:
    path = accepted(raw).path
    assert unquote(path) == unquote(_remove_dot_segments(raw.partition("?")[0]))


def accepted(raw: str) -> CanonicalPath:
    """The canonical path; examples that are refused do not count."""
    try:
        return canonicalise(raw)
    except BadPath:
        reject()


def _remove_dot_segments(path: str) -> str:
    """RFC 3986, section 5.2.4, to the letter."""
    output = ""
    while path:
        if path.startswith("/./") or path == "/.":
            path = "/" + path[3:]
        elif path.startswith("/../") or path == "/..":
            path = "/" + path[4:]
            output = output.rpartition("/")[0]
        else:
            end = path.find("/", 1)
            end = len(path) if end < 0 else end
            output, path = output + path[:end], path[end:]
    return output
