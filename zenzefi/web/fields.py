"""Schema fields that mean exactly what they say."""

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from marshmallow import ValidationError, fields, validate

from zenzefi.web.responses import format_time

_BAD_MONEY = 'Give an amount with at most two decimals, such as "18.00".'
_BAD_TIME = "Give a time in RFC 3339, such as 2026-01-31T12:00:00Z."
_BAD_WORDS = "Must hold some text, and no control characters."
_LINE = r"^[^\x00-\x1f\x7f-\x9f]*$"
_WORDS = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
_MONEY = re.compile(r"[+-]?[0-9]{1,12}(\.[0-9]{1,2})?")


class Text(fields.String):
    """A string between two lengths."""

    def __init__(self, *, min_length: int = 0, max_length: int, **kwargs: Any) -> None:
        """Take the lengths, in characters."""
        length = validate.Length(min=min_length or None, max=max_length)
        extra = kwargs.pop("validate", ())
        validators = [length, *(extra if isinstance(extra, list | tuple) else (extra,))]
        super().__init__(validate=validators, **kwargs)


class Line(Text):
    """One line of text without the blanks around it, and without control characters; blank only where it may be."""

    def __init__(self, *, max_length: int, may_be_blank: bool = False, **kwargs: Any) -> None:
        """Take the greatest length, in characters."""
        pattern, error = (_LINE, "Must not hold control characters.") if may_be_blank else (_WORDS, _BAD_WORDS)
        super().__init__(max_length=max_length, validate=validate.Regexp(pattern, error=error), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        return text.strip(" ")


class WholeNumber(fields.Integer):
    """An integer between two bounds: neither 1.0 nor true; digits only where it comes as text."""

    def __init__(self, *, least: int, most: int, **kwargs: Any) -> None:
        """Take the bounds, both included."""
        super().__init__(validate=validate.Range(min=least, max=most), **kwargs)

    def _validated(self, value: Any) -> int:
        if isinstance(value, bool | Decimal | float):
            raise self.make_error("invalid", input=value)
        if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,18}", value):
            raise self.make_error("invalid", input=value)
        number: int = super()._validated(value)
        return number


class Money(fields.Field[Decimal]):
    """An amount with at most two decimals, as a string ("18.00") or a JSON number; a string in the answer."""

    def __init__(self, *, least: Decimal | None = None, most: Decimal | None = None, **kwargs: Any) -> None:
        """Take the bounds, both included."""
        metadata = {"format": "decimal", "example": "18.00", **kwargs.pop("metadata", {})}
        super().__init__(metadata=metadata, **kwargs)
        self._least, self._most = least, most

    def _serialize(self, value: Decimal | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else f"{value:.2f}"

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Decimal:
        if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
            raise ValidationError(_BAD_MONEY)
        # Neither 1e999999999 nor 1e-999999999 is written out: each would take a gigabyte.
        if not isinstance(value, str):
            number = Decimal(value)
            value = f"{number:f}" if number.is_finite() and -12 <= int(number.as_tuple().exponent) <= 12 else ""
        if not _MONEY.fullmatch(value):
            raise ValidationError(_BAD_MONEY)
        try:
            amount = Decimal(value).quantize(Decimal("0.01"))
        except InvalidOperation:
            raise ValidationError(_BAD_MONEY) from None
        if (self._least is not None and amount < self._least) or (self._most is not None and amount > self._most):
            raise ValidationError(f"Give an amount from {self._least} to {self._most}.")
        return amount


class Timestamp(fields.Field[datetime]):
    """An instant in RFC 3339; UTC with Z in the answer."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(metadata={"format": "date-time", **kwargs.pop("metadata", {})}, **kwargs)

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else format_time(value)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> datetime:
        try:
            instant = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            raise ValidationError(_BAD_TIME) from None
        if instant.tzinfo is None:
            raise ValidationError(_BAD_TIME)
        return instant


class Flag(fields.Boolean):
    """true or false, and no other spelling."""

    truthy = {True, "true"}  # noqa: RUF012  marshmallow declares them so
    falsy = {False, "false"}  # noqa: RUF012

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if not isinstance(value, bool | str):
            raise ValidationError("Give true or false.")
        flag: bool = super()._deserialize(value, attr, data, **kwargs)
        return flag
