"""The shape of token strings, for all secrets and for all that is not one."""

import hashlib
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zenzefi.access.token_format import SECRET_BYTES, TOKEN_LENGTH, hash_token, hint_of, is_well_formed, mint

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
secrets = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)


def test_the_format_is_the_documented_one() -> None:
    # Worked out by hand from the definition, and never to change: tokens in people's hands depend on it.
    assert mint(bytes(32)) == "znz_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" + base62(
        zlib.crc32(b"znz_" + b"A" * 43)
    )
    assert mint(b"\xff" * 32).startswith("znz_" + "_" * 42 + "8")


def base62(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    return digits.rjust(6, "0")


@given(secrets)
def test_what_is_minted_is_well_formed(secret: bytes) -> None:
    token = mint(secret)
    assert len(token) == TOKEN_LENGTH == 53
    assert is_well_formed(token)
    assert token[47:] == base62(zlib.crc32(token[:47].encode()))


@given(secrets, secrets)
def test_different_secrets_make_different_tokens(one: bytes, other: bytes) -> None:
    assert (mint(one) == mint(other)) == (one == other)


@given(secrets, st.integers(0, TOKEN_LENGTH - 1), st.characters(codec="utf-8"))
def test_any_one_changed_character_is_noticed(secret: bytes, position: int, character: str) -> None:
    token = mint(secret)
    changed = token[:position] + character + token[position + 1 :]
    assert is_well_formed(changed) == (changed == token)


@given(secrets, st.integers(0, TOKEN_LENGTH - 2))
def test_swapped_neighbours_are_noticed(secret: bytes, position: int) -> None:
    token = mint(secret)
    swapped = token[:position] + token[position + 1] + token[position] + token[position + 2 :]
    assert is_well_formed(swapped) == (swapped == token)


@given(secrets, st.text(max_size=3), st.text(max_size=3))
def test_nothing_may_stand_before_or_after(secret: bytes, before: str, after: str) -> None:
    token = mint(secret)
    assert is_well_formed(before + token + after) == (before == after == "")


@given(st.text())
def test_no_other_text_is_a_token(text: str) -> None:
    assert not is_well_formed(text)


@pytest.mark.parametrize("ending", ["\n", " ", "\0", "="])
def test_a_trailing_character_is_no_part_of_a_token(ending: str) -> None:
    assert not is_well_formed(mint(bytes(32)) + ending)


def test_a_secret_that_no_32_bytes_encode_to_is_refused_in_spite_of_its_checksum() -> None:
    body = "znz_" + "A" * 42 + "B"
    assert not is_well_formed(body + base62(zlib.crc32(body.encode())))


@given(secrets)
def test_the_hash_is_sha256_of_the_whole_string(secret: bytes) -> None:
    token = mint(secret)
    assert hash_token(token) == hashlib.sha256(token.encode()).digest()


@given(secrets)
def test_the_hint_shows_24_bits_of_the_secret_and_nothing_of_the_checksum(secret: bytes) -> None:
    token = mint(secret)
    assert hint_of(token) == token[:8]
    assert hint_of(token) == hint_of(mint(secret[:3] + bytes(29)))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        mint(bytes(size))
