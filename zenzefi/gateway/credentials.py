"""Which token and which device a request names: pure rules on its header fields.

That each of the two stands there once, and that no name comes with underscores, is seen to by the server's protocol,
before any handler (zenzefi.server.framing).
"""

import re
from dataclasses import dataclass, field
from typing import Final

from multidict import MultiMapping, istr

from zenzefi.access.token_format import hash_token, is_well_formed
from zenzefi.gateway.errors import BadDeviceId, DeviceRequired, TokenRequired
from zenzefi.gateway.models import Device

# istr: looked up with every request, and so put into the mapping's own spelling only once.
TOKEN_HEADER: Final = istr("X-Access-Token")
DEVICE_HEADER: Final = istr("X-Device-ID")

_DEVICE_ID: Final = re.compile(r"[\x21-\x7e]{8,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a request names, as it was sent and as it is looked up; no hash where the token cannot be one of ours."""

    token: str = field(repr=False)
    device_id: str = field(repr=False)
    token_hash: bytes | None = field(repr=False)
    device: Device


def read_credentials(headers: MultiMapping[str], *, before: Credentials | None = None) -> Credentials:
    """The token and the device of a request through the gateway.

    `before` are those of the connection's last request. Nearly always they come again, and hashing them anew would
    take longer than all other checks.

    Raises:
        TokenRequired, DeviceRequired: it is missing.
        BadDeviceId: the device's identifier is not 8 to 255 visible ASCII characters.
    """
    token, device_id = headers.get(TOKEN_HEADER), headers.get(DEVICE_HEADER)
    if before is not None and token == before.token and device_id == before.device_id:
        return before
    if token is None:
        raise TokenRequired
    if device_id is None:
        raise DeviceRequired(f"Send an identifier of this device in one {DEVICE_HEADER} header.")
    return Credentials(token=token, device_id=device_id, token_hash=_hash(token), device=_device(device_id))


def read_token(headers: MultiMapping[str]) -> tuple[bytes | None, Device | None]:
    """The token's hash, as in Credentials, of a request that asks about it, and its device where one is named.

    Raises:
        TokenRequired, BadDeviceId: as for ``read_credentials``.
    """
    token, device_id = headers.get(TOKEN_HEADER), headers.get(DEVICE_HEADER)
    if token is None:
        raise TokenRequired
    return _hash(token), None if device_id is None else _device(device_id)


def _hash(token: str) -> bytes | None:
    return hash_token(token) if is_well_formed(token) else None


def _device(device_id: str) -> Device:
    if _DEVICE_ID.fullmatch(device_id) is None:
        raise BadDeviceId(f"{DEVICE_HEADER} is 8 to 255 visible ASCII characters, without spaces.")
    return Device.of(device_id)
