"""age (https://age-encryption.org/v1) as a stream: what it writes, the plain `age` tool opens.

pyrage works on blocking files, so it runs in a thread at the other end of a socket pair, whose buffers bound the memory
and whose closing ends the thread. age authenticates each 64 KiB and the end: what was altered or cut off fails.
"""

import asyncio
import hashlib
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import BinaryIO, cast

import pyrage

from zenzefi.backups.errors import BackupDamaged, NoRepository, WrongKey

_PIECE = 256 * 1024  # of reads; larger ones are not faster
_KEY_ID_CHARS = 16


def key_id(recipient: str) -> str:
    """A public key's name in manifests: the beginning of its SHA-256."""
    return hashlib.sha256(recipient.encode()).hexdigest()[:_KEY_ID_CHARS]


def make_identity() -> tuple[str, str]:
    """A new key pair: the secret identity, and the recipient that is public."""
    identity = pyrage.x25519.Identity.generate()
    return str(identity), str(identity.to_public())


def recipient_of(identity: str) -> str:
    """The public key of a secret one.

    Raises:
        WrongKey: it is no age identity.
    """
    return str(_parse_identity(identity).to_public())


async def encrypt(source: AsyncGenerator[bytes, None], recipients: Sequence[str]) -> AsyncGenerator[bytes, None]:
    """Encrypt for each of the public keys; an error of the source, which is closed at the end, comes out here.

    Raises:
        NoRepository: there are no recipients, or one is not a public key of age.
    """
    if not recipients:
        raise NoRepository(
            "BACKUP_RECIPIENTS is not set: there is nobody to encrypt for. Make a key: zenzefi backup key"
        )
    try:
        keys = [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]
    except pyrage.RecipientError as error:
        raise NoRepository(f"BACKUP_RECIPIENTS has a key that age does not know: {error}.") from error
    async with aclosing(_through(source, lambda reader, writer: pyrage.encrypt_io(reader, writer, keys))) as pieces:
        async for piece in pieces:
            yield piece


async def decrypt(source: AsyncGenerator[bytes, None], identity: str) -> AsyncGenerator[bytes, None]:
    """Decrypt with a secret key. Pieces come out before the end is checked: without that they prove nothing.

    An error of the source, which is closed at the end, comes out here.

    Raises:
        WrongKey: it was not encrypted for this key.
        BackupDamaged: it was altered or cut off, or is not age's.
    """
    key = _parse_identity(identity)
    work = _through(source, lambda reader, writer: pyrage.decrypt_io(reader, writer, [key]))
    try:
        async with aclosing(work) as pieces:
            async for piece in pieces:
                yield piece
    except pyrage.DecryptError as error:
        if "No matching keys" in str(error):
            raise WrongKey("It was encrypted for other keys than BACKUP_IDENTITY's.") from error
        raise BackupDamaged(f"It cannot be decrypted: {error}.") from error
    except _Broken as error:
        raise BackupDamaged(f"It cannot be decrypted: {error}. It was altered or cut off.") from error


class _Broken(Exception):
    """age met bytes that it did not write."""


def _parse_identity(identity: str) -> pyrage.x25519.Identity:
    try:
        return pyrage.x25519.Identity.from_str(identity)
    except pyrage.IdentityError as error:
        raise WrongKey(f"BACKUP_IDENTITY is no age identity: {error}.") from error


async def _through(
    source: AsyncGenerator[bytes, None], work: Callable[[BinaryIO, BinaryIO], None]
) -> AsyncGenerator[bytes, None]:
    """Run blocking `work` in a thread, fed from `source`; what it writes comes out.

    The last piece is followed by the source's error, or by that of the work, if there was one.
    """
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours, limit=_PIECE)
    # Not the loop's own threads: those are few, and work that lasts for hours would keep them from looking up names.
    thread = ThreadPoolExecutor(1, thread_name_prefix="age")
    working = asyncio.get_running_loop().run_in_executor(thread, _work, work, theirs)
    feeding = asyncio.ensure_future(_feed(source, writer))
    try:
        while piece := await _read(reader):
            yield piece
        await asyncio.wait([working])
        if feeding.done():
            feeding.result()
        working.result()
        await feeding
    finally:
        feeding.cancel()
        writer.transport.abort()  # the thread fails at its next read or write
        await asyncio.wait([feeding, working])
        for ended in (feeding, working):
            if not ended.cancelled():
                ended.exception()  # it was raised above, or is of no interest any more
        thread.shutdown(wait=False)


def _work(work: Callable[[BinaryIO, BinaryIO], None], theirs: socket.socket) -> None:
    # The buffered files hold the socket open until all three are closed.
    with theirs, theirs.makefile("rb", buffering=_PIECE) as reader, theirs.makefile("wb", buffering=_PIECE) as writer:
        try:
            work(cast(BinaryIO, reader), cast(BinaryIO, writer))
            writer.flush()
        except OSError as error:
            raise _Broken(str(error)) from error
        finally:
            with suppress(OSError):
                writer.close()  # it would write what is left, and nobody may listen any more


async def _feed(source: AsyncGenerator[bytes, None], writer: asyncio.StreamWriter) -> None:
    try:
        async with aclosing(source):
            async for piece in source:
                if writer.is_closing():
                    return  # the thread has ended, and its error says why
                writer.write(piece)
                with suppress(ConnectionError):
                    await writer.drain()
    finally:
        if not writer.is_closing():
            with suppress(OSError):
                writer.write_eof()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_PIECE)
    except ConnectionError:
        return b""  # the thread has ended without reading all; its error says why
