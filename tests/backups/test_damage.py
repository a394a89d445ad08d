"""Whatever is done to a stored backup, its verification notices, and marks it as failed: never as verified.

Whoever can write to the bucket can also make the manifest's size and SHA-256 fit; then decryption must notice. And who
has the public key can even encrypt anew; then only what was restored tells.
"""

import hashlib
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from enum import Enum, auto

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.backups.ballast import add_ballast
from zenzefi.backups import upload
from zenzefi.backups.encryption import decrypt, encrypt
from zenzefi.backups.errors import VerificationFailed
from zenzefi.backups.models import Manifest, VerificationState
from zenzefi.backups.repository import Repository
from zenzefi.backups.service import back_up
from zenzefi.backups.verification import verify
from zenzefi.context import Context

AGE_CHUNK = 64 * 1024 + 16  # with its tag
PART = 5 * upload.MIB  # the least that S3 takes
# How a block of 4 KiB begins in pg_dump's format: its length as a number with a sign. gzip's data is inside of them.
_BLOCK = re.compile(rb"\x00\x00\x10\x00\x00")

Damage = Callable[[bytes, int], bytes]


def _flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] if place < len(data) else data


def _cut(data: bytes, place: int) -> bytes:
    return data[:place]


def _insert(data: bytes, place: int) -> bytes:
    return data[:place] + b"\0" + data[place:]


def _leave_a_chunk_out(data: bytes, place: int) -> bytes:
    return data[:place] + data[place + AGE_CHUNK :]


def _repeat_a_chunk(data: bytes, place: int) -> bytes:
    return data[: place + AGE_CHUNK] + data[place:]


class Layer(Enum):
    """What a damage is done to; what is above it fits."""

    OBJECT = auto()
    ENCRYPTION = auto()
    DUMP = auto()


DAMAGES: st.SearchStrategy[Damage] = st.sampled_from([_flip, _cut, _insert, _leave_a_chunk_out, _repeat_a_chunk])


class Stored:
    """A backup of two parts, as it was made. (No dataclass: hypothesis writes down all fields of those.)"""

    def __init__(self, *, ctx: Context, repository: Repository, manifest: Manifest, data: bytes) -> None:
        self.ctx, self.repository, self.manifest, self.data = ctx, repository, manifest, data
        # Where age's header ends and its chunks begin, where the second part does, and where all ends.
        header = data.index(b"\n", data.index(b"\n---")) + 1 + 16
        self.boundaries = [*range(header, len(data), AGE_CHUNK), PART, len(data)]
        self.dump = b""

    async def put(self, data: bytes, *, fitting: bool) -> None:
        """Store other data; the manifest is the one that was made, or one that fits it."""
        digest = hashlib.sha256(data).hexdigest()
        manifest = replace(self.manifest, stored_size=len(data), sha256=digest) if fitting else self.manifest
        bucket, client = self.repository.bucket, self.repository.client
        await client.put_object(Bucket=bucket, Key=manifest.object_key, Body=data)
        await client.put_object(Bucket=bucket, Key=self.repository.manifest_key(manifest.id), Body=manifest.to_json())

    async def encrypted(self, dump: bytes) -> bytes:
        """What anybody can make of a dump who has the public key."""
        return await _all(encrypt(_one(dump), self.ctx.settings.backup.recipients))

    async def fails(self) -> str:
        """Verify it, and return why it failed; nothing else may come of it."""
        with pytest.raises(VerificationFailed):
            await verify(self.ctx, backup_id=self.manifest.id)
        found = (await self.repository.get(self.manifest.id)).verification
        assert (found.state, bool(found.reason)) == (VerificationState.FAILED, True)
        return str(found.reason)


@pytest.fixture
async def stored(backup_ctx: Context, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Stored:
    monkeypatch.setattr(upload, "MIN_PART", PART)
    await add_ballast(backup_ctx.settings, megabytes=5)
    made = await back_up(backup_ctx)
    assert made.stored_size > PART
    stored = Stored(ctx=backup_ctx, repository=repository, manifest=made, data=await _all(repository.read_data(made)))
    stored.dump = await _all(decrypt(_one(stored.data), backup_ctx.settings.backup.identity))
    # It is damage that fails a backup: what is only encrypted anew is what was backed up.
    await stored.put(await stored.encrypted(stored.dump), fitting=True)
    assert (await verify(backup_ctx)).is_verified
    return stored


@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(layer=st.sampled_from(Layer), damage=DAMAGES, choice=st.floats(0.0, 1.0), around=st.integers(-1, 6))
async def test_damage_at_any_boundary_fails_a_backup(
    stored: Stored, layer: Layer, damage: Damage, choice: float, around: int
) -> None:
    whole = stored.dump if layer is Layer.DUMP else stored.data
    # What follows the last row of the dump may be anything: then what is restored is what was backed up.
    boundaries = [found.start() for found in _BLOCK.finditer(whole)][:-50] if layer is Layer.DUMP else stored.boundaries
    damaged = damage(whole, boundaries[round(choice * (len(boundaries) - 1))] + around)
    assume(damaged != whole)
    await stored.put(await stored.encrypted(damaged) if layer is Layer.DUMP else damaged, fitting=layer != Layer.OBJECT)

    reason = await stored.fails()

    assert ("cannot be decrypted" in reason) <= (layer is not Layer.DUMP)
    assert "SHA-256" not in reason or layer is Layer.OBJECT


async def _one(data: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), upload.MIB):
        yield data[start : start + upload.MIB]


async def _all(pieces: AsyncGenerator[bytes, None]) -> bytes:
    async with aclosing(pieces):
        return b"".join([piece async for piece in pieces])


async def test_what_follows_the_end_of_the_dump_is_read_and_compared(stored: Stored) -> None:
    """pg_restore ends where the dump does, and does not read to the end of what it is given."""
    longer = await stored.encrypted(stored.dump + bytes(2 * upload.MIB))
    stored.manifest = replace(stored.manifest, stored_size=len(longer))

    await stored.put(longer, fitting=False)

    assert "SHA-256" in await stored.fails()
