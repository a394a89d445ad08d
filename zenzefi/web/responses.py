"""JSON as the API writes it: money with two decimals, times in RFC 3339 with Z."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from aiohttp import web


def encode_json(data: object) -> str:
    """Compact JSON text; Decimal, datetime and UUID become strings.

    Raises:
        TypeError: a value of another type, a naive datetime among them.
    """
    return _ENCODER.encode(data)


def json_response(data: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response with a JSON body."""
    return web.Response(text=encode_json(data), status=status, headers=headers, content_type="application/json")


def format_time(instant: datetime) -> str:
    """RFC 3339 in UTC, such as 2026-11-23T06:30:00.123456Z."""
    if instant.tzinfo is None:
        raise TypeError("a time without its zone cannot be told to a client")
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _encode_value(value: object) -> str:
    match value:
        case Decimal():
            return f"{value:.2f}"
        case datetime():
            return format_time(value)
        case UUID():
            return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form here")


# json.dumps would make one for each text.
_ENCODER: Final = json.JSONEncoder(default=_encode_value, separators=(",", ":"), ensure_ascii=False)
