"""Keyset paging: page 1 and page 10,000 cost the same."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from aiohttp import web
from marshmallow import Schema

from zenzefi.errors import Invalid
from zenzefi.web.fields import Text, WholeNumber
from zenzefi.web.keys import QUERY
from zenzefi.web.responses import json_response

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
_BIGINT_MAX = 2**63 - 1


class PageQuerySchema(Schema):
    """The query parameters of every list; lists with filters derive theirs from it."""

    limit = WholeNumber(least=1, most=MAX_LIMIT, load_default=DEFAULT_LIMIT)
    cursor = Text(max_length=200, load_default=None, metadata={"description": "next_cursor of the page before"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list is asked for: ``limit`` rows that come after the key in ``cursor``."""

    limit: int
    cursor: str | None

    def after_uuid(self) -> UUID | None:
        """The key of the last row of the page before, or None on the first page."""
        key = self._key()
        try:
            return None if key is None else UUID(str(key))
        except ValueError:
            raise _bad_cursor() from None

    def after_number(self) -> int | None:
        """The number of the last row of the page before, or None on the first page."""
        key = self._key()
        if key is None:
            return None
        if not isinstance(key, int) or isinstance(key, bool) or not 0 <= key <= _BIGINT_MAX:
            raise _bad_cursor()
        return key

    def _key(self) -> "str | int | None":
        if self.cursor is None:
            return None
        try:
            padded = self.cursor + "=" * (-len(self.cursor) % 4)
            key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        except (ValueError, RecursionError):
            raise _bad_cursor() from None
        if not isinstance(key, str | int):
            raise _bad_cursor()
        return key


def page_of(request: web.Request) -> Page:
    """The page that a request with a schema derived from PageQuerySchema asks for."""
    query = request[QUERY]
    return Page(limit=query["limit"], cursor=query["cursor"])


def encode_cursor(key: UUID | int) -> str:
    """The opaque cursor of a row's key."""
    raw = json.dumps(key if isinstance(key, int) else str(key)).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def page_response(items: Sequence[object], next_key: UUID | int | None) -> web.Response:
    """The answer of every list; ``next_key`` is the last item's key, or None when nothing follows."""
    return json_response({"items": items, "next_cursor": None if next_key is None else encode_cursor(next_key)})


def _bad_cursor() -> Invalid:
    return Invalid({"cursor": ["This is no cursor of this list. Take next_cursor of the page before."]})
