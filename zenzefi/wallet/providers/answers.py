"""Reading what a provider sent: JSON in which nothing is taken for granted."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias
from uuid import UUID

JsonMembers: TypeAlias = Mapping[str, Any]

_PROVIDER_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MONEY = re.compile(r"[0-9]{1,12}(\.[0-9]{1,2})?")
_MAX_URL_CHARS = 4096
# The member of a payment's metadata that carries our id.
METADATA_KEY = "payment_id"


class Unreadable(ValueError):
    """What a provider sent is not what its documentation says; the message names the member, never its value."""


def parse_object(body: bytes) -> JsonMembers:
    """A JSON object; its numbers with decimals are Decimal."""
    try:
        parsed = json.loads(body.decode(), parse_float=Decimal, parse_constant=Decimal)
    except (ValueError, ArithmeticError, RecursionError):
        raise Unreadable("it is no JSON") from None
    if not isinstance(parsed, dict):
        raise Unreadable("it is no JSON object")
    return parsed


def member(data: JsonMembers, name: str) -> JsonMembers:
    """A member that is an object."""
    value = data.get(name)
    if not isinstance(value, dict):
        raise Unreadable(f"{name} is no object")
    return value


def text(data: JsonMembers, name: str) -> str:
    """A member that is a text of reasonable length."""
    value = data.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_URL_CHARS:
        raise Unreadable(f"{name} is no text")
    return value


def provider_id(data: JsonMembers, name: str = "id") -> str:
    """A member that is an id of the provider's, fit to stand in a path."""
    value = text(data, name)
    if not _PROVIDER_ID.fullmatch(value):
        raise Unreadable(f"{name} is no id")
    return value


def web_address(data: JsonMembers, name: str) -> str:
    """A member that a browser can be sent to."""
    value = text(data, name)
    if not value.startswith(("https://", "http://")):
        raise Unreadable(f"{name} is no web address")
    return value


def money(value: object) -> Decimal:
    """An amount written as text with at most two decimals."""
    if not isinstance(value, str) or not _MONEY.fullmatch(value):
        raise Unreadable("the amount is no amount")
    try:
        return Decimal(value).quantize(Decimal("0.01"))
    except InvalidOperation:
        raise Unreadable("the amount is no amount") from None


def hundredths(value: object) -> Decimal:
    """An amount written as a whole number of hundredths."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**14:
        raise Unreadable("the amount is no amount")
    return Decimal(value).scaleb(-2)


def our_id(data: JsonMembers) -> UUID | None:
    """Our id of a payment in the metadata that the provider keeps for us; None when it is not ours."""
    metadata = data.get("metadata")
    value = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None
