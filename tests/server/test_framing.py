"""Requests that two programs could read differently: refused with a problem document before any handler runs."""

import time
from collections.abc import AsyncIterator

import pytest

from tests.server.support import HOST, Service, serving
from zenzefi.server.deadlines import Deadlines
from zenzefi.server.errors import RefusedRequest
from zenzefi.server.framing import HeadLimits, check_head

ERRORS = {error.code: error for error in RefusedRequest.__subclasses__()}
QUICK = Deadlines(linger_s=0.2, sweep_s=0.05, head_s=2.0, idle_s=2.0)
POST = b"POST /echo HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def get(*fields: bytes, target: bytes = b"/echo", version: bytes = b"1.1", host: bytes = HOST) -> bytes:
    return b"GET " + target + b" HTTP/" + version + b"\r\n" + host + b"".join(f + b"\r\n" for f in fields) + b"\r\n"


def post(*fields: bytes, body: bytes = b"abc") -> bytes:
    return POST + b"".join(f + b"\r\n" for f in fields) + b"\r\n" + body


REFUSED = {
    "length_and_coding": post(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "coding_and_length": post(b"Transfer-Encoding: chunked", b"Content-Length: 3", body=b"0\r\n\r\n"),
    "length_twice_equal": post(b"Content-Length: 3", b"Content-Length: 3"),
    "length_twice": post(b"Content-Length: 3", b"Content-Length: 4"),
    "length_twice_other_case": post(b"Content-Length: 3", b"CONTENT-LENGTH: 3"),
    "length_list": post(b"Content-Length: 3, 3"),
    "length_plus": post(b"Content-Length: +3"),
    "length_minus": post(b"Content-Length: -3"),
    "length_hex": post(b"Content-Length: 0x3"),
    "length_underscore": post(b"Content-Length: 1_0"),
    "length_space_inside": post(b"Content-Length: 1 2"),
    "length_empty": post(b"Content-Length:"),
    "length_of_2_to_64": post(b"Content-Length: 18446744073709551616"),
    "length_of_2_to_64_less_1": post(b"Content-Length: 18446744073709551615"),
    "length_arabic_digits": post("Content-Length: ٣".encode()),
    "length_space_before_colon": post(b"Content-Length : 3"),
    "length_underscored": post(b"Content_Length: 3"),
    "coding_list": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "coding_list_reversed": post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    "coding_twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "coding_in_two_fields": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=b"0\r\n\r\n"),
    "coding_capital": post(b"Transfer-Encoding: Chunked", body=b"0\r\n\r\n"),
    "coding_with_parameter": post(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n"),
    "coding_prefixed": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "coding_quoted": post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "coding_vertical_tab": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "coding_space_after": post(b"Transfer-Encoding: chunked ", body=b"0\r\n\r\n"),
    "coding_tab_after": post(b"Transfer-Encoding: chunked\t", body=b"0\r\n\r\n"),
    "coding_empty": post(b"Transfer-Encoding:", body=b"0\r\n\r\n"),
    "coding_identity": post(b"Transfer-Encoding: identity"),
    "coding_underscored": post(b"Transfer_Encoding: chunked", body=b"0\r\n\r\n"),
    "coding_space_before_colon": post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "coding_on_1_0": get(b"Transfer-Encoding: chunked", version=b"1.0") + b"0\r\n\r\n",
    "folded": get(b"X-A: a", b" b"),
    "folded_tab": get(b"X-A: a", b"\tb"),
    "folded_first": get(host=b" Host: a\r\n" + HOST),
    "folded_empty_value": get(b"X-A:", b" b"),
    "folded_coding": post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"),
    "bare_lf_request_line": b"GET /echo HTTP/1.1\n" + HOST + b"\r\n",
    "bare_lf_field": b"GET /echo HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n",
    "bare_lf_end": b"GET /echo HTTP/1.1\r\nHost: a\r\n\n",
    "bare_lf_everywhere": b"GET /echo HTTP/1.1\nHost: a\n\n",
    "bare_lf_before": b"\n" + get(),
    "bare_lf_value": get(b"X-A:\nb"),
    "bare_cr_value": get(b"X-A: a\rb"),
    "bare_cr_end": b"GET /echo HTTP/1.1\r\nHost: a\r\n\rX\r\n\r\n",
    "cr_before": b"\r" + get(),
    "empty_lines_before": b"\r\n\r\n\r\n" + get(),
    "hosts": get(b"Host: other.test"),
    "hosts_equal": get(HOST.strip()),
    "hosts_other_case": get(b"hOST: gateway.test"),
    "host_missing": get(host=b""),
    "host_empty": get(host=b"Host:\r\n"),
    "host_list": get(host=b"Host: a, b\r\n"),
    "host_with_user": get(host=b"Host: a@b\r\n"),
    "host_with_path": get(host=b"Host: a/b\r\n"),
    "absolute_form": get(target=b"http://other.test/echo"),
    "authority_form": get(target=b"other.test:80"),
    "asterisk_form": get(target=b"*"),
    "fragment": get(target=b"/echo#fragment"),
    "fragment_in_query": get(target=b"/echo?a#b"),
    "target_without_slash": get(target=b"echo"),
    "target_space": get(target=b"/echo b"),
    "target_control": get(target=b"/ec\x01ho"),
    "target_delete": get(target=b"/ec\x7fho"),
    "target_high": get(target=b"/ec\xffho"),
    "value_nul": get(b"X-A: a\0b"),
    "value_control": get(b"X-A: a\x01b"),
    "value_delete": get(b"X-A: a\x7fb"),
    "space_before_colon": get(b"X-A : b"),
    "tab_before_colon": get(b"X-A\t: b"),
    "name_empty": get(b": b"),
    "name_space": get(b"X A: b"),
    "name_high": get(b"X\xffA: b"),
    "name_nul": get(b"Content-Length\0: 3"),
    "no_colon": get(b"X-A"),
    "request_line_tab": b"GET\t/echo HTTP/1.1\r\n" + HOST + b"\r\n",
    "request_line_two_spaces": b"GET  /echo HTTP/1.1\r\n" + HOST + b"\r\n",
    "request_line_trailing_space": b"GET /echo HTTP/1.1 \r\n" + HOST + b"\r\n",
    "request_line_without_version": b"GET /echo\r\n" + HOST + b"\r\n",
    "request_line_rtsp": b"GET /echo RTSP/1.0\r\n" + HOST + b"\r\n",
    "request_line_icecast": b"SOURCE /echo ICE/1.0\r\n" + HOST + b"\r\n",
    "request_line_lower_http": b"GET /echo http/1.1\r\n" + HOST + b"\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "token_twice": get(b"X-Access-Token: a", b"x-access-token: b"),
    "token_underscored": get(b"X_Access_Token: a"),
    "token_half_underscored": get(b"X-Access_Token: a"),
    "device_twice": get(b"X-Device-ID: a", b"X-Device-ID: a"),
    "device_underscored": get(b"x_device_id: a"),
    "user_id_underscored": get(b"X_User_Id: 1"),
    "content_type_twice": get(b"Content-Type: a", b"Content-Type: b"),
    "chunk_lf": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "chunk_lf_after_data": CHUNKED + b"3\r\nabc\n0\r\n\r\n",
    "chunk_lf_at_last": CHUNKED + b"3\r\nabc\r\n0\n\r\n",
    "chunk_lf_at_end": CHUNKED + b"3\r\nabc\r\n0\r\n\n",
    "chunk_cr": CHUNKED + b"3\rabc\r\n0\r\n\r\n",
    "chunk_longer_than_said": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "chunk_size_space": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "chunk_size_prefix": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "chunk_size_plus": CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
    "chunk_size_minus": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "chunk_size_empty": CHUNKED + b"\r\nabc\r\n0\r\n\r\n",
    "chunk_size_overflow": CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "chunk_extension_lf": CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "chunk_extension_control": CHUNKED + b"3;a\x00b\r\nabc\r\n0\r\n\r\n",
    "chunk_extension_endless": CHUNKED + b"3;a=" + b"x" * 200_000 + b"\r\nabc\r\n0\r\n\r\n",
    "chunk_extension_long": CHUNKED + b"3;a=" + b"x" * 300 + b"\r\nabc\r\n0\r\n\r\n",
    "chunk_extension_space": CHUNKED + b"3; a=b\r\nabc\r\n0\r\n\r\n",
    "chunk_extension_unnamed": CHUNKED + b"3;=b\r\nabc\r\n0\r\n\r\n",
    "chunk_extension_unclosed": CHUNKED + b'3;a="b\r\nabc\r\n0\r\n\r\n',
    "chunk_size_of_2_to_64": CHUNKED + b"10000000000000000\r\nabc\r\n0\r\n\r\n",
    "trailer_coding": CHUNKED + b"3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer_token": CHUNKED + b"3\r\nabc\r\n0\r\nX-T: 1\r\nX-Access-Token: a\r\n\r\n",
    "trailer_folded": CHUNKED + b"3\r\nabc\r\n0\r\nX-T: 1\r\n 2\r\n\r\n",
    "trailer_without_end": CHUNKED + b"3\r\nabc\r\n0\r\nX-T: " + b"x" * 20_000,
    "trailer_length": CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
    "trailer_lf": CHUNKED + b"3\r\nabc\r\n0\r\nX-T: 1\n\r\n",
    "trailers_too_many": CHUNKED + b"3\r\nabc\r\n0\r\n" + b"X-T: 1\r\n" * 200 + b"\r\n",
}

OTHERWISE_REFUSED = {
    "trace": (405, b"TRACE /echo HTTP/1.1\r\n" + HOST + b"\r\n"),
    "connect": (405, b"CONNECT other.test:443 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "connect_with_path": (405, b"CONNECT /echo HTTP/1.1\r\n" + HOST + b"\r\n"),
    "method_unknown": (501, b"FETCH /echo HTTP/1.1\r\n" + HOST + b"\r\n"),
    "method_lower_case": (501, b"get /echo HTTP/1.1\r\n" + HOST + b"\r\n"),
    "version_0_9": (505, get(version=b"0.9")),
    "version_1_2": (505, get(version=b"1.2")),
    "version_2": (505, get(version=b"2.0")),
    "http_2_preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "line_too_long": (414, get(target=b"/" + b"a" * 9000)),
    "line_without_end": (414, b"GET /" + b"a" * 9000),
    "fields_too_many": (431, get(*[b"X: a"] * 101)),
    "fields_too_large": (431, get(*[b"X: " + b"a" * 8000] * 5)),
    "expectation_unknown": (417, post(b"Content-Length: 3", b"Expect: wonders", body=b"")),
    "expectation_with_more": (417, post(b"Content-Length: 3", b"Expect: 100-continue, wonders", body=b"")),
    "field_without_end": (431, b"GET /echo HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 50_000),
}

ACCEPTED = {
    "length": (post(b"Content-Length: 3"), b"abc"),
    "length_spaces_around": (post(b"Content-Length: \t3 \t"), b"abc"),
    "length_zeros_before": (post(b"Content-Length: 003"), b"abc"),
    "length_on_get": (get(b"Content-Length: 3") + b"abc", b"abc"),
    "coding": (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "coding_zeros_before": (CHUNKED + b"0003\r\nabc\r\n000\r\n\r\n", b"abc"),
    "coding_extension": (CHUNKED + b"3;name=value\r\nabc\r\n0\r\n\r\n", b"abc"),
    "coding_trailer": (CHUNKED + b"3\r\nabc\r\n0\r\nX-Checksum: 1\r\n\r\n", b"abc"),
    "coding_empty_lines_in_data": (CHUNKED + b"8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n\r\n\r\n"),
    "coding_end_in_data": (CHUNKED + b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    "empty_line_before": (b"\r\n" + get(), b""),
    "host_with_port": (get(host=b"Host: gateway.test:8000\r\n"), b""),
    "host_ipv6": (get(host=b"Host: [::1]:8000\r\n"), b""),
    "host_missing_on_1_0": (get(host=b"", version=b"1.0"), b""),
    "value_latin_1": (get(b"X-A: a\xffb"), b""),
    "value_tab": (get(b"X-A: a\tb"), b""),
    "field_large": (get(b"Cookie: a=" + b"x" * 30_000), b""),
    "underscored_names_of_others": (get(b"My_Header: a"), b""),
    "upgrade_unknown": (get(b"Connection: upgrade", b"Upgrade: h2c"), b""),
}


@pytest.fixture(name="service", scope="module")
async def _service() -> AsyncIterator[Service]:
    async with serving(deadlines=QUICK) as service:
        yield service


async def _check_refusal(service: Service, sent: bytes, status: int) -> None:
    service.seen.clear()
    async with service.connect() as client:
        await client.send(sent)
        answer = await client.answer()
        assert answer.status == status
        problem = answer.problem()
        error = ERRORS[problem["code"]]
        assert problem == {  # all of it is fixed text: nothing that the client sent comes back
            "type": "about:blank",
            "title": error.title(),
            "status": status,
            "detail": error.explanation,
            "code": error.code,
            "request_id": answer.headers["x-request-id"],
        }
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
        assert await client.is_closed()
    assert service.seen == []


@pytest.mark.parametrize("name", REFUSED)
async def test_ambiguous_request_is_refused_before_any_handler(service: Service, name: str) -> None:
    await _check_refusal(service, REFUSED[name], 400)


@pytest.mark.parametrize("name", OTHERWISE_REFUSED)
async def test_request_that_is_not_served_is_refused_before_any_handler(service: Service, name: str) -> None:
    status, sent = OTHERWISE_REFUSED[name]
    await _check_refusal(service, sent, status)


async def test_refused_method_names_the_allowed_ones(service: Service) -> None:
    async with service.connect() as client:
        await client.send(OTHERWISE_REFUSED["trace"][1])
        answer = await client.answer()
    assert answer.headers["allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


@pytest.mark.parametrize("name", ACCEPTED)
async def test_clear_request_reaches_the_handler_with_its_body(service: Service, name: str) -> None:
    sent, body = ACCEPTED[name]
    service.seen.clear()
    async with service.connect() as client:
        await client.send(sent)
        answer = await client.answer()
    assert (answer.status, answer.body) == (200, body)
    assert [seen_body for _, _, seen_body in service.seen] == [body]


@pytest.mark.parametrize("name", ACCEPTED)
async def test_request_behind_a_clear_one_is_read_from_where_that_ends(service: Service, name: str) -> None:
    sent, body = ACCEPTED[name]
    service.seen.clear()
    async with service.connect() as client:
        await client.send(sent + get(target=b"/second") + b"JUNK\0")
        first = await client.answer()
        assert first.body == body
        if b"HTTP/1.0" in sent:
            assert await client.is_closed()
            return
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 400
        assert await client.is_closed()
    assert [path for _, path, _ in service.seen] == ["/echo", "/second"]


@pytest.mark.parametrize("name", ["coding", "coding_trailer", "coding_end_in_data", "length", "upgrade_unknown"])
async def test_pipelined_requests_survive_any_segmentation(service: Service, name: str) -> None:
    sent, body = ACCEPTED[name]
    stream = sent + get(target=b"/second")
    for cut in range(1, len(stream)):
        service.seen.clear()
        async with service.connect() as client:
            await client.send(stream[:cut])
            async with service.connect() as other:  # one round trip: the first part has been read by then
                await other.send(get(target=b"/ignore"))
                await other.answer()
            await client.send(stream[cut:])
            assert (await client.answer()).body == body
            assert (await client.answer()).status == 200
        assert [path for _, path, _ in service.seen if path != "/ignore"] == ["/echo", "/second"]


async def test_request_with_broken_chunks_after_its_handler_began_is_not_taken_for_whole(service: Service) -> None:
    service.seen.clear()
    async with service.connect() as client:
        await client.send(CHUNKED + b"3\r\nabc\r\n")
        async with service.connect() as other:
            await other.send(get(target=b"/ignore"))
            await other.answer()
        await client.send(b"XX\r\n")
        answer = await client.answer()
        assert answer.status == 400
        assert answer.problem()["code"] == "malformed_request"
        assert answer.headers["connection"] == "close"
        assert await client.is_closed()
    assert [path for _, path, _ in service.seen] == ["/ignore"]


async def test_body_that_ends_with_the_connection_is_not_taken_for_whole(service: Service) -> None:
    for part in (post(b"Content-Length: 30"), CHUNKED + b"3\r\nabc\r\n"):
        service.seen.clear()
        async with service.connect() as client:
            await client.send(part)
            client.writer.write_eof()
            assert await client.is_closed()
        assert service.seen == []


async def test_forty_pipelined_requests_are_answered_in_their_order(service: Service) -> None:
    async with service.connect() as client:
        await client.send(b"".join(get(b"Content-Length: 2", target=b"/%d" % n) + b"%02d" % n for n in range(90)))
        assert [int((await client.answer()).body) for _ in range(90)] == list(range(90))


async def test_large_bodies_arrive_whole_however_they_are_framed(service: Service) -> None:
    data = bytes(range(256)) * 8192  # 2 MiB, many times what is buffered before the reader takes it
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(part), part) for part in (data[i : i + 5000] for i in range(0, len(data), 5000))
    )
    for stream in (post(b"Content-Length: %d" % len(data), body=data), CHUNKED + chunks + b"0\r\n\r\n"):
        async with service.connect() as client:
            await client.send(stream + get(target=b"/second"))
            assert (await client.answer()).body == data
            assert (await client.answer()).status == 200


def test_check_head_takes_microseconds() -> None:
    """Not a benchmark: a regular expression that backtracks would miss this by orders of magnitude."""
    head = get(*[b"X-Field-%d: %s" % (n, b"v " * 60) for n in range(90)])
    started = time.process_time()
    for _ in range(100):
        check_head(head, HeadLimits())
        check_head(head[:-2] + b"X-Last: a\r\n\r\n", HeadLimits())
    assert (time.process_time() - started) / 200 < 0.002
