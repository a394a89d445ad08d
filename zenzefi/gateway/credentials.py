"""Which token and which device a request names: pure rules on its header fields."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from multidict import MultiMapping

from zenzefi.gateway.errors import AmbiguousHeaders, BadDeviceId, DeviceRequired, TokenRequired
from zenzefi.gateway.models import Device

TOKEN_HEADER: Final = "X-Access-Token"  # noqa: S105  a header's name
DEVICE_HEADER: Final = "X-Device-ID"

_DEVICE_ID: Final = re.compile(r"[\x21-\x7e]{8,255}")
# Many servers fold "_" into "-" when they make variables of headers: whoever spells one of ours so wants the gateway
# and the upstream to read two different requests.
_OWN: Final = frozenset(
    b"x-access-token x-device-id x-user-id x-token-id x-request-id x-forwarded-for x-forwarded-proto "
    b"x-forwarded-host".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The token as it was sent, which need not be one, and the device."""

    token: str = field(repr=False)
    device: Device


def read_credentials(headers: MultiMapping[str], raw_headers: Sequence[tuple[bytes, bytes]]) -> Credentials:
    """The token and the device of a request through the gateway.

    Raises:
        AmbiguousHeaders: one of the two stands there twice, or a header of ours is spelled with underscores.
        TokenRequired, DeviceRequired: it is missing.
        BadDeviceId: the device's identifier is not 8 to 255 visible ASCII characters.
    """
    _refuse_underscores(raw_headers)
    token, device_id = _single(headers, TOKEN_HEADER), _single(headers, DEVICE_HEADER)
    if token is None:
        raise TokenRequired
    if device_id is None:
        raise DeviceRequired(f"Send an identifier of this device in one {DEVICE_HEADER} header.")
    return Credentials(token=token, device=_device(device_id))


def read_token(headers: MultiMapping[str], raw_headers: Sequence[tuple[bytes, bytes]]) -> tuple[str, Device | None]:
    """The token of a request that asks about it, and its device where one is named.

    Raises:
        AmbiguousHeaders, TokenRequired, BadDeviceId: as for ``read_credentials``.
    """
    _refuse_underscores(raw_headers)
    token, device_id = _single(headers, TOKEN_HEADER), _single(headers, DEVICE_HEADER)
    if token is None:
        raise TokenRequired
    return token, None if device_id is None else _device(device_id)


def _single(headers: MultiMapping[str], name: str) -> str | None:
    values = headers.getall(name, ())
    if len(values) > 1:
        raise AmbiguousHeaders(f"{name} stands there {len(values)} times. Send it once.")
    return values[0] if values else None


def _device(device_id: str) -> Device:
    if _DEVICE_ID.fullmatch(device_id) is None:
        raise BadDeviceId(f"{DEVICE_HEADER} is 8 to 255 visible ASCII characters, without spaces.")
    return Device.of(device_id)


def _refuse_underscores(raw_headers: Sequence[tuple[bytes, bytes]]) -> None:
    for name, _ in raw_headers:
        if b"_" in name and name.replace(b"_", b"-").lower() in _OWN:
            raise AmbiguousHeaders("A header of the gateway is spelled with an underscore. Use hyphens.")
