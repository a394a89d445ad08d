"""Idempotency keys: a money request that is sent again gets the first answer again, and has no second effect.

After draft-ietf-httpapi-idempotency-key-header: the answer is stored in the transaction that moves the money, so that
either both exist or neither does, whenever the process dies. An answer may hold a secret that is shown once (a token's
string), so it is sealed with a key that takes both SECRET_KEY and the client's Idempotency-Key to derive; the latter is
itself stored only as a hash. Whoever reads the database alone learns nothing from it.
"""

import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, TypeAlias
from uuid import UUID

from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from zenzefi.context import Context
from zenzefi.errors import BadRequest, Conflict, ZenzefiError
from zenzefi.infra.db import Connection
from zenzefi.web import idempotency_queries as queries
from zenzefi.web.idempotency_queries import StoredAnswer
from zenzefi.web.keys import CTX, IDENTITY
from zenzefi.web.responses import json_response

KEY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
MAX_KEY_CHARS = 255
# For the `parameters` of a route's @docs.
KEY_PARAMETER = {
    "in": "header",
    "name": KEY_HEADER,
    "description": "Makes the request safe to repeat for 24 hours: the same key and body get the first answer again.",
    "schema": {"type": "string", "pattern": f"^[!-~]{{1,{MAX_KEY_CHARS}}}$"},
}
# What the API promises; a client that retries later than that has long lost its answer anyway.
KEPT_FOR = timedelta(hours=24)
# One DELETE of this many rows takes some milliseconds and holds no lock that a request would wait for.
PURGE_BATCH_ROWS = 1000

_NONCE_BYTES = 12
_SEAL_INFO = b"zenzefi idempotency answer, AES-256-GCM"
_IN_PROGRESS_RETRY_AFTER_S = 1


class BadIdempotencyKey(BadRequest):
    """The Idempotency-Key header is not usable"""

    code: ClassVar[str] = "bad_idempotency_key"


class IdempotencyInProgress(Conflict):
    """The first request with this Idempotency-Key is still running"""

    code: ClassVar[str] = "idempotency_in_progress"


class IdempotencyKeyReused(ZenzefiError):
    """This Idempotency-Key belongs to another request"""

    status: ClassVar[int] = 422
    code: ClassVar[str] = "idempotency_key_reused"


class IdempotentAnswerLost(Conflict):
    """The request was carried out, but its answer can no longer be read"""

    code: ClassVar[str] = "idempotent_answer_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """Whose key it is and which request it stands for."""

    user_id: UUID
    key: str
    request_hash: bytes

    @property
    def key_hash(self) -> bytes:
        return hashlib.sha256(self.key.encode()).digest()

    @property
    def lock_id(self) -> int:
        """What the advisory lock is taken on: 64 bits, so that two claims of the whole world hardly ever meet."""
        digest = hashlib.sha256(b"zenzefi idempotency" + self.user_id.bytes + self.key_hash).digest()
        return int.from_bytes(digest[:8], signed=True)


UseCase: TypeAlias = Callable[[Connection], Awaitable[Mapping[str, object]]]


async def respond_once(request: web.Request, use_case: UseCase, *, status: int = 201) -> web.Response:
    """Run a use case in one transaction and answer with what it returns; with an Idempotency-Key, only once.

    A repeated request gets the first answer byte for byte, with Idempotency-Replayed. Only an answer of success is
    kept: a use case that raises is rolled back with everything, and a retry runs it afresh.

    Locks (with a key): an advisory lock on the user's key until the transaction ends; it is never waited for.

    Raises:
        BadIdempotencyKey: the header is not one value of 1 to MAX_KEY_CHARS visible ASCII characters.
        IdempotencyInProgress: the first request has not ended yet, here or in another process.
        IdempotencyKeyReused: the key came before with another method, path or body.
        IdempotentAnswerLost: SECRET_KEY has changed since.
    """
    ctx = request.app[CTX]
    claim = await _claim_of(request)
    async with ctx.transaction() as conn:
        if claim is None:
            return json_response(await use_case(conn), status=status)
        if not await queries.try_lock(conn, lock_id=claim.lock_id):
            raise IdempotencyInProgress(
                f"Try again in {_IN_PROGRESS_RETRY_AFTER_S} s.",
                headers={"Retry-After": str(_IN_PROGRESS_RETRY_AFTER_S)},
                retry_after=_IN_PROGRESS_RETRY_AFTER_S,
            )
        stored = await _find_answer(conn, ctx=ctx, claim=claim)
        if stored is not None:
            return _replay(stored, claim=claim, secret_key=ctx.settings.secret_key)
        response = json_response(await use_case(conn), status=status)
        await _store_answer(conn, ctx=ctx, claim=claim, response=response)
    return response


async def purge_idempotency_keys(ctx: Context) -> int:
    """Delete the answers older than KEPT_FOR, each batch in a transaction of its own; returns how many there were."""
    purged = 0
    while True:
        async with ctx.transaction() as conn:
            batch = await queries.delete_answers_before(
                conn, created_before=ctx.now() - KEPT_FOR, limit=PURGE_BATCH_ROWS
            )
        purged += batch
        if batch < PURGE_BATCH_ROWS:
            return purged


async def _claim_of(request: web.Request) -> _Claim | None:
    values = request.headers.getall(KEY_HEADER, [])
    if not values:
        return None
    if len(values) > 1 or not _is_well_formed(values[0]):
        raise BadIdempotencyKey(f"Send one {KEY_HEADER} of 1 to {MAX_KEY_CHARS} visible ASCII characters.")
    return _Claim(
        user_id=request[IDENTITY].user_id,
        key=values[0],
        request_hash=_hash_request(request.method, request.raw_path, await request.read()),
    )


def _is_well_formed(key: str) -> bool:
    return 0 < len(key) <= MAX_KEY_CHARS and all("!" <= character <= "~" for character in key)


def _hash_request(method: str, raw_path: str, body: bytes) -> bytes:
    """Fingerprint a request; spacing, the order of members and quotes around a number make no difference."""
    # Numbers stay text: none is rounded, and none overflows. A route that reads no body may be sent what is no JSON.
    with suppress(ValueError, RecursionError):
        parsed = json.loads(body, parse_int=str, parse_float=str)
        body = json.dumps(parsed, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(b"\0".join((method.encode(), raw_path.encode(), body))).digest()


async def _find_answer(conn: Connection, *, ctx: Context, claim: _Claim) -> StoredAnswer | None:
    # The lock is held: whoever had it before has committed or is rolled back, and this new statement sees which.
    stored = await queries.find_answer(conn, user_id=claim.user_id, key_hash=claim.key_hash)
    if stored is not None and stored.created_at <= ctx.now() - KEPT_FOR:
        # The purge has not come by yet; the promise of 24 h does not depend on when it does.
        await queries.delete_answer(conn, user_id=claim.user_id, key_hash=claim.key_hash)
        return None
    return stored


def _replay(stored: StoredAnswer, *, claim: _Claim, secret_key: str) -> web.Response:
    if stored.request_hash != claim.request_hash:
        raise IdempotencyKeyReused("Use a new key for a new request, and the same key only to repeat the same one.")
    cipher = AESGCM(_derive_key(secret_key, claim.key))
    nonce, sealed = stored.sealed_response[:_NONCE_BYTES], stored.sealed_response[_NONCE_BYTES:]
    try:
        body = cipher.decrypt(nonce, sealed, _associated_data(claim, stored.response_status))
    except InvalidTag:
        raise IdempotentAnswerLost(
            "The server's SECRET_KEY has changed since. The first request did take effect: look up its result "
            "instead of repeating it with a new key."
        ) from None
    return web.Response(
        status=stored.response_status,
        body=body,
        content_type="application/json",
        charset="utf-8",
        headers={REPLAYED_HEADER: "true"},
    )


async def _store_answer(conn: Connection, *, ctx: Context, claim: _Claim, response: web.Response) -> None:
    assert isinstance(response.body, bytes), "json_response makes a body of bytes"
    nonce = os.urandom(_NONCE_BYTES)
    cipher = AESGCM(_derive_key(ctx.settings.secret_key, claim.key))
    sealed = cipher.encrypt(nonce, response.body, _associated_data(claim, response.status))
    await queries.insert_answer(
        conn,
        user_id=claim.user_id,
        key_hash=claim.key_hash,
        answer=StoredAnswer(
            request_hash=claim.request_hash,
            response_status=response.status,
            sealed_response=nonce + sealed,
            created_at=ctx.now(),
        ),
    )


def _derive_key(secret_key: str, idempotency_key: str) -> bytes:
    # RFC 5869: the secret as the salt makes the extraction an HMAC under it of what the client sent.
    hkdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=secret_key.encode(), info=_SEAL_INFO)
    return hkdf.derive(idempotency_key.encode())


def _associated_data(claim: _Claim, status: int) -> bytes:
    """Bind an answer to its row: copied under another user, key, request or status, it does not open."""
    return claim.user_id.bytes + claim.key_hash + claim.request_hash + status.to_bytes(2)
