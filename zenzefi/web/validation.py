"""What comes in is checked against the schemas that aiohttp-apispec's decorators put on a handler."""

import json
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Any, ClassVar

from aiohttp import web
from marshmallow import RAISE, Schema, ValidationError

from zenzefi.errors import BadRequest, Invalid, ZenzefiError
from zenzefi.web.keys import JSON, QUERY

MAX_BODY_BYTES = 64 * 1024


class InvalidJson(BadRequest):
    """The body is not valid JSON"""

    code = "invalid_json"


class UnsupportedMediaType(ZenzefiError):
    """The body is of a type that this route does not read"""

    status: ClassVar[int] = 415
    code: ClassVar[str] = "unsupported_media_type"


class BodyTooLarge(ZenzefiError):
    """The body is larger than this route takes"""

    status: ClassVar[int] = 413
    code: ClassVar[str] = "body_too_large"


async def validate(request: web.Request, schemas: Iterable[dict[str, Any]]) -> None:
    """Put the checked body into request[JSON] and the checked query into request[QUERY].

    Raises:
        InvalidJson, UnsupportedMediaType, BodyTooLarge, Invalid: what is wrong, by field where there is one.
    """
    for declared in schemas:
        schema: Schema = declared["schema"]
        if declared["location"] == "json":
            request[JSON] = _load(schema, await read_json_object(request))
        elif declared["location"] == "querystring":
            is_empty = not request.query_string
            request[QUERY] = dict(_load_nothing(schema)) if is_empty else _load(schema, _query_fields(request))


async def read_json_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object; its numbers with decimals are Decimal, never float."""
    if request.content_type != "application/json":
        raise UnsupportedMediaType("Send the body as JSON with Content-Type: application/json.")
    if "Content-Encoding" in request.headers:
        raise UnsupportedMediaType("Send the body as it is, without Content-Encoding.")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise BodyTooLarge(f"The body may have {MAX_BODY_BYTES} bytes.")
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise BodyTooLarge(f"The body may have {MAX_BODY_BYTES} bytes.") from None
    try:
        data = json.loads(
            raw.decode("utf-8"),
            parse_float=Decimal,
            parse_constant=Decimal,  # NaN and the infinities are for the fields to refuse by name: none takes them
            object_pairs_hook=_object_without_duplicates,
        )
    except (ValueError, ArithmeticError, RecursionError):  # Decimal refuses 1e99999999999999999999
        raise InvalidJson("Send one JSON object in UTF-8.") from None
    if not isinstance(data, dict):
        raise InvalidJson("Send a JSON object: { … }.")
    for field, value in data.items():
        if not _is_storable(field) or not _is_storable(value):
            raise Invalid({_printable(field): ["NUL characters and lone surrogates are not allowed."]})
    return data


def _load(schema: Schema, data: dict[str, Any]) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema.load(data, unknown=RAISE)
    except ValidationError as error:
        raise Invalid(dict(_flatten(error.messages_dict))) from None
    return loaded


@lru_cache(maxsize=256)
def _load_nothing(schema: Schema) -> dict[str, Any]:
    """What an absent query means, which is how most lists are asked for: the defaults, which are constants."""
    return _load(schema, {})


def _query_fields(request: web.Request) -> dict[str, Any]:
    query = request.query
    repeated = {name: ["Give it once."] for name in query if len(query.getall(name)) > 1}
    if repeated:
        raise Invalid(repeated)
    for name, value in query.items():
        if not _is_storable(name) or not _is_storable(value):
            raise Invalid({_printable(name): ["NUL characters are not allowed."]})
    return dict(query)


def _flatten(messages: object, path: str = "") -> Iterable[tuple[str, list[str]]]:
    """Nested messages of marshmallow as (field path, messages)."""
    if isinstance(messages, dict):
        for field, inner in messages.items():
            yield from _flatten(inner, f"{path}.{field}" if path else str(field))
    elif isinstance(messages, list):
        yield _printable(path), [str(message) for message in messages]
    else:
        yield _printable(path), [str(messages)]


def _is_storable(value: object) -> bool:
    """Whether PostgreSQL's text can hold every string in the value, however deep it is nested."""
    pending = [value]
    while pending:
        match pending.pop():
            case str() as text:
                if "\0" in text or not _is_utf8(text):
                    return False
            case dict() as members:
                pending += members.keys()
                pending += members.values()
            case list() as items:
                pending += items
    return True


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a member stands twice")
    return data
