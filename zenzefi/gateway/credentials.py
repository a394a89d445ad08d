"""Which token and which device a request names: pure rules on its header fields.

That each of the two stands there once, and that no name comes with underscores, is seen to by the server's protocol,
before any handler (zenzefi.server.framing).
"""

import re
from dataclasses import dataclass, field
from typing import Final

from multidict import MultiMapping

from zenzefi.gateway.errors import BadDeviceId, DeviceRequired, TokenRequired
from zenzefi.gateway.models import Device

TOKEN_HEADER: Final = "X-Access-Token"  # noqa: S105  a header's name
DEVICE_HEADER: Final = "X-Device-ID"

_DEVICE_ID: Final = re.compile(r"[\x21-\x7e]{8,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The token as it was sent, which need not be one, and the device."""

    token: str = field(repr=False)
    device: Device


def read_credentials(headers: MultiMapping[str]) -> Credentials:
    """The token and the device of a request through the gateway.

    Raises:
        TokenRequired, DeviceRequired: it is missing.
        BadDeviceId: the device's identifier is not 8 to 255 visible ASCII characters.
    """
    token, device = read_token(headers)
    if device is None:
        raise DeviceRequired(f"Send an identifier of this device in one {DEVICE_HEADER} header.")
    return Credentials(token=token, device=device)


def read_token(headers: MultiMapping[str]) -> tuple[str, Device | None]:
    """The token of a request that asks about it, and its device where one is named.

    Raises:
        TokenRequired, BadDeviceId: as for ``read_credentials``.
    """
    token, device_id = headers.get(TOKEN_HEADER), headers.get(DEVICE_HEADER)
    if token is None:
        raise TokenRequired
    return token, None if device_id is None else _device(device_id)


def _device(device_id: str) -> Device:
    if _DEVICE_ID.fullmatch(device_id) is None:
        raise BadDeviceId(f"{DEVICE_HEADER} is 8 to 255 visible ASCII characters, without spaces.")
    return Device.of(device_id)
