"""Random spellings of requests against a model: refused, or read exactly as the model reads them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.server.support import Service, serving
from zenzefi.server.deadlines import Deadlines

SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: a\r\n\r\n"
REFUSALS = {400, 405, 414, 431, 501, 505}


@dataclass(frozen=True)
class Spelling:
    """A field as it goes on the wire, and whether it is a clean one."""

    line: bytes
    is_clean: bool


@dataclass(frozen=True)
class Example:
    """A request on the wire, and what the model says of it: the body, or None for a refusal."""

    stream: bytes
    method: str
    body: bytes | None
    is_last: bool
    cuts: tuple[int, ...]


@st.composite
def spellings(draw: st.DrawFn, name: bytes, value: bytes, *, may_be_flawed: bool) -> Spelling:
    if draw(st.booleans()):
        name = draw(st.sampled_from([name.lower(), name.upper(), name.swapcase()]))
    before = draw(st.sampled_from([b"", b" ", b"\t", b" \t"]))
    after = b"" if value == b"chunked" else draw(st.sampled_from([b"", b" ", b"\t"]))
    flaws = ["space", "lf", "fold", "cr", "nul"] if may_be_flawed else []
    flaw = draw(st.sampled_from(["none"] * 5 + flaws))
    match flaw:
        case "space":
            return Spelling(name + b" :" + before + value + after + b"\r\n", is_clean=False)
        case "lf":
            return Spelling(name + b":" + before + value + after + b"\n", is_clean=False)
        case "fold":
            return Spelling(name + b":" + before + b"\r\n " + value + after + b"\r\n", is_clean=False)
        case "cr":
            return Spelling(name + b":" + before + b"\r" + value + after + b"\r\n", is_clean=False)
        case "nul":
            return Spelling(name + b":" + before + value + b"\0\r\n", is_clean=False)
    return Spelling(name + b":" + before + value + after + b"\r\n", is_clean=True)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    wire, rest = b"", body
    while rest:
        size = draw(st.integers(1, len(rest)))
        piece, rest = rest[:size], rest[size:]
        digits = draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % size
        wire += digits + draw(st.sampled_from([b"", b"", b";a", b";a=b", b';a="b;c"'])) + b"\r\n" + piece + b"\r\n"
    return wire + b"0\r\n" + draw(st.sampled_from([b"", b"", b"X-Trailer: 1\r\n"])) + b"\r\n"


@st.composite
def examples(draw: st.DrawFn) -> Example:
    method = draw(st.sampled_from([b"GET", b"POST", b"POST", b"PUT", b"DELETE"]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"]))
    body = draw(st.one_of(st.binary(max_size=40), st.sampled_from([SENTINEL, b"\r\n\r\n", b"0\r\n\r\n" + SENTINEL])))
    size = b"%d" % len(body)
    exact, odd = [size, b"0" + size], [b"+" + size, size + b"," + size, b"", b"-1", b"0x1", size + b" 0", b"1" * 20]
    lengths = draw(st.lists(st.sampled_from(exact * 4 + odd), max_size=2))
    odd_codings = [b"Chunked", b"gzip, chunked", b"chunked, chunked", b"identity", b"xchunked", b"", b"chunked;a"]
    codings = draw(st.lists(st.sampled_from([b"chunked"] * 6 + odd_codings), max_size=2))
    hosts = draw(st.lists(st.sampled_from([b"a", b"a", b"a:8000", b"", b"a b", b"a,b"]), max_size=2))
    is_tidy = draw(st.booleans())  # half of them: else nearly all would be refused, for several reasons at once
    if is_tidy:
        hosts, version = [b"a"], b"1.1"
        codings = [b"chunked"] if codings else []
        lengths = [] if codings else [size for _ in lengths[:1]]
    if not lengths and not codings:
        body = b""
    wanted = [
        *[(b"Content-Length", value) for value in lengths],
        *[(b"Transfer-Encoding", value) for value in codings],
        *[(b"Host", value) for value in hosts],
        *[(b"X-Noise", b"some: noise, chunked")] * draw(st.integers(0, 2)),
    ]
    fields = [draw(spellings(name, value, may_be_flawed=not is_tidy)) for name, value in wanted]
    fields = draw(st.permutations(fields))
    end = b"\r\n" if is_tidy else draw(st.sampled_from([b"\r\n"] * 12 + [b"\n"]))
    is_clear = (
        all(field.is_clean for field in fields)
        and end == b"\r\n"
        and (hosts in ([b"a"], [b"a:8000"]) or (not hosts and version == b"1.0"))
        and len(lengths) + len(codings) <= 1
        and all(length in exact for length in lengths)
        and all(coding == b"chunked" for coding in codings)
        and not (codings and version == b"1.0")
    )
    head = method + b" /first HTTP/" + version + b"\r\n" + b"".join(field.line for field in fields) + end
    stream = head + (draw(chunked(body)) if codings else body) + SENTINEL
    cuts = draw(st.lists(st.integers(1, len(stream) - 1), max_size=4, unique=True))
    return Example(
        stream=stream,
        method=method.decode(),
        body=body if is_clear else None,
        is_last=version == b"1.0",
        cuts=tuple(sorted(cuts)),
    )


@pytest.fixture(name="service", scope="module")
async def _service() -> AsyncIterator[Service]:
    async with serving(deadlines=Deadlines(head_s=2.0, sweep_s=0.1, linger_s=0.1)) as service:
        yield service


@given(example=examples())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_request_is_refused_or_read_as_the_model_reads_it(service: Service, example: Example) -> None:
    service.seen.clear()
    async with service.connect() as client:
        start = 0
        for cut in (*example.cuts, len(example.stream)):
            try:
                await client.send(example.stream[start:cut])
            except ConnectionError:  # refused already
                break
            start = cut
        first = await client.answer()
        if example.body is None:
            event("refused")
            assert first.status in REFUSALS
            assert await client.is_closed()
            assert service.seen == []
            return
        event("served")
        assert (first.status, first.body) == (200, example.body), example.stream
        expected = [(example.method, "/first", example.body)]
        if example.is_last:
            assert await client.is_closed()
        else:
            assert (await client.answer()).status == 200
            expected.append(("GET", "/sentinel", b""))
    assert service.seen == expected
