"""JSON Web Tokens: those that were found good are remembered, and nothing else."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from zenzefi.errors import Unauthenticated
from zenzefi.infra import jwt
from zenzefi.infra.jwt import Claims, JwtSigner

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def signer() -> JwtSigner:
    return JwtSigner("0123456789abcdef0123456789abcdef", lifetime=HOUR)


def _sign(signer: JwtSigner) -> tuple[Claims, str]:
    claims = Claims(user_id=uuid4(), login_id=uuid4())
    return claims, signer.sign(claims, token_id=UUID(int=7), now=NOW)


def test_a_remembered_token_expires_all_the_same(signer: JwtSigner) -> None:
    claims, token = _sign(signer)
    assert signer.verify(token, now=NOW) == claims
    assert signer.verify(token, now=NOW + HOUR - timedelta(seconds=1)) == claims
    with pytest.raises(Unauthenticated):
        signer.verify(token, now=NOW + HOUR)


def test_a_token_that_resembles_a_remembered_one_is_refused(signer: JwtSigner) -> None:
    _, token = _sign(signer)
    signer.verify(token, now=NOW)
    head, payload, signature = token.split(".")
    forged = "A" if signature[0] != "A" else "B"
    for text in (f"{head}.{payload}.{forged}{signature[1:]}", f"{head}.{payload}.", f"{head}.{payload}x.{signature}"):
        for _ in range(2):  # what was refused once is not remembered either
            with pytest.raises(Unauthenticated):
                signer.verify(text, now=NOW)


def test_not_more_tokens_are_remembered_than_have_room(signer: JwtSigner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwt, "MAX_REMEMBERED", 2)
    signed = [_sign(signer) for _ in range(4)]
    for claims, token in [*signed, *signed]:
        assert signer.verify(token, now=NOW) == claims
