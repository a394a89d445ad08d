"""Signatures of events: what is believed, and that nothing else is."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zenzefi.wallet.payment_errors import BadSignature, StaleNotice
from zenzefi.wallet.providers.signature import sign, verify

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
SECRET, OTHER = "whsec_0123456789abcdef", "whsec_fedcba9876543210"
BODY = b'{"id": 1}'


def _believed(body: bytes, *headers: str, secrets: tuple[str, ...] = (SECRET,), now: datetime = NOW) -> bool:
    try:
        verify(body, headers=headers, secrets=secrets, now=now)
    except (BadSignature, StaleNotice):
        return False
    return True


def test_signature_is_the_one_that_stripe_documents() -> None:
    # echo -n '1795420800.{"id": 1}' | openssl dgst -sha256 -hmac whsec_0123456789abcdef
    expected = "t=1795420800,v1=fc5ce76b929d3c976bd28380bf79f9b55e960cbcfe2262bc6fca581c3bfe09a2"
    assert sign(BODY, secret=SECRET, at=NOW) == expected
    assert _believed(BODY, expected)


def test_one_right_signature_of_several_suffices_and_either_secret_counts() -> None:
    header = sign(BODY, secret=SECRET, at=NOW)
    time, right = header.split(",")
    wrong = sign(BODY, secret=OTHER, at=NOW).split(",")[1]
    for sent in (f"{time},{wrong},{right}", f"{time},{right},{wrong},v0=abc", f"{right},{time}"):
        assert _believed(BODY, sent)
    assert _believed(BODY, header, secrets=(OTHER, SECRET))
    assert not _believed(BODY, f"{time},{wrong}")
    assert not _believed(BODY, header, secrets=(OTHER,))
    assert not _believed(BODY, f"{time},{right.replace('v1', 'v0')}")


@pytest.mark.parametrize("secrets", [(), ("",), ("", "")])
def test_without_a_secret_nothing_is_believed(secrets: tuple[str, ...]) -> None:
    for secret in (SECRET, ""):
        assert not _believed(BODY, sign(BODY, secret=secret, at=NOW), secrets=secrets)


@pytest.mark.parametrize(("age_s", "believed"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_signature_holds_for_five_minutes_both_ways(age_s: int, believed: bool) -> None:
    header = sign(BODY, secret=SECRET, at=NOW - timedelta(seconds=age_s))
    assert _believed(BODY, header) is believed


@pytest.mark.parametrize("headers", [(), (sign(BODY, secret=SECRET, at=NOW),) * 2])
def test_there_is_one_header(headers: tuple[str, ...]) -> None:
    assert not _believed(BODY, *headers)


@given(st.text(max_size=200) | st.from_regex(r"t=-?[0-9]{0,20}(,v[01]=[0-9a-f]{0,70}){0,12}", fullmatch=True))
def test_no_other_text_is_a_signature(header: str) -> None:
    assert not _believed(BODY, header)


@given(st.data())
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    header = sign(BODY, secret=SECRET, at=NOW)
    sent = bytearray(header.encode() + b"\n" + BODY)
    place = data.draw(st.integers(0, len(sent) - 1))
    sent[place] ^= data.draw(st.integers(1, 255))
    changed, _, body = bytes(sent).partition(b"\n")
    assert not _believed(body, changed.decode("latin-1"))


@given(st.binary(max_size=300))
def test_no_other_body_fits_a_signature(body: bytes) -> None:
    assert _believed(body, sign(BODY, secret=SECRET, at=NOW)) is (body == BODY)
