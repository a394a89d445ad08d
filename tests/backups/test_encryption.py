"""age as a stream: what is altered or cut off anywhere fails, whatever the pieces are that it arrives in."""

import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import cache, partial
from os import urandom

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backups.keys import KeyPair
from zenzefi.backups.encryption import decrypt, encrypt, key_id, make_identity, recipient_of
from zenzefi.backups.errors import BackupDamaged, NoRepository, WrongKey

CHUNK = 64 * 1024 + 16  # of age's payload, with its tag
IDENTITY, RECIPIENT = make_identity()
PLAIN = urandom(200_000)


@cache
def _sealed() -> bytes:
    return bytes(pyrage.encrypt(PLAIN, [pyrage.x25519.Recipient.from_str(RECIPIENT)]))


async def _pieces(data: bytes, size: int) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def _opened(data: bytes, *, piece: int = 10_000, identity: str = IDENTITY) -> bytes:
    return b"".join([out async for out in decrypt(_pieces(data, piece), identity)])


def _header_length() -> int:
    return len(_sealed()) - len(PLAIN) - 16 * (-(-len(PLAIN) // (64 * 1024)))


@settings(max_examples=25, deadline=None)
@given(length=st.integers(0, 300_000), piece=st.integers(1_000, 400_000))
async def test_what_goes_in_comes_out(length: int, piece: int) -> None:
    plain = (PLAIN * 2)[:length]
    sealed = b"".join([out async for out in encrypt(_pieces(plain, piece), [RECIPIENT])])

    assert await _opened(sealed, piece=piece) == plain
    assert pyrage.decrypt(sealed, [pyrage.x25519.Identity.from_str(IDENTITY)]) == plain


@pytest.mark.parametrize("around", [-1, 0, 1])
async def test_truncation_at_every_chunk_boundary_is_noticed(around: int) -> None:
    header = _header_length()
    for boundary in range(header, len(_sealed()), CHUNK):
        with pytest.raises(BackupDamaged):
            await _opened(_sealed()[: boundary + around])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
async def test_one_flipped_bit_anywhere_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(_sealed())
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    # In the header it may be the name of the key that turned.
    with pytest.raises((BackupDamaged, WrongKey)):
        await _opened(bytes(sealed))


async def test_another_key_is_the_wrong_one(age_keys: KeyPair) -> None:
    with pytest.raises(WrongKey):
        await _opened(_sealed(), identity=age_keys.identity)
    with pytest.raises(WrongKey):
        await _opened(_sealed(), identity="AGE-SECRET-KEY-1NONE")


async def test_each_recipient_can_open_it(age_keys: KeyPair) -> None:
    sealed = b"".join([out async for out in encrypt(_pieces(PLAIN, 9999), [RECIPIENT, age_keys.recipient])])

    assert await _opened(sealed) == await _opened(sealed, identity=age_keys.identity) == PLAIN


@pytest.mark.parametrize("recipients", [(), ("age1nobody",)])
async def test_there_must_be_somebody_to_encrypt_for(recipients: tuple[str, ...]) -> None:
    with pytest.raises(NoRepository, match="BACKUP_RECIPIENTS"):
        async for _ in encrypt(_pieces(PLAIN, 9999), recipients):
            pass


@pytest.mark.parametrize("work", [partial(encrypt, recipients=[RECIPIENT]), partial(decrypt, identity=IDENTITY)])
async def test_an_error_of_the_source_is_not_taken_for_its_end(
    work: Callable[[AsyncGenerator[bytes, None]], AsyncGenerator[bytes, None]],
) -> None:
    async def breaking() -> AsyncGenerator[bytes, None]:
        async for piece in _pieces(_sealed(), 10_000):
            yield piece
        raise LookupError("the source broke after its last byte")

    with pytest.raises(LookupError):
        async for _ in work(breaking()):
            pass


async def test_who_stops_reading_leaves_no_thread_behind() -> None:
    async def endless() -> AsyncGenerator[bytes, None]:
        while True:
            yield PLAIN

    async with aclosing(encrypt(endless(), [RECIPIENT])) as pieces:
        async for piece in pieces:
            assert piece
            break

    for thread in threading.enumerate():
        if thread.name.startswith("age"):
            thread.join(timeout=30)
            assert not thread.is_alive()


def test_a_key_has_a_name_that_does_not_tell_it() -> None:
    assert recipient_of(IDENTITY) == RECIPIENT
    assert key_id(RECIPIENT) == key_id(recipient_of(IDENTITY))
    assert key_id(RECIPIENT) not in RECIPIENT
