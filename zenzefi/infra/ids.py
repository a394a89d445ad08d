"""UUIDv7 (RFC 9562, section 5.7) of a given instant.

The libraries that make them read the machine's clock; ours are made by the database's, by which tables are partitioned.
"""

import os
from uuid import UUID


def uuid7(epoch_s: float) -> UUID:
    """48 bits of milliseconds, 12 bits of their fraction (section 6.2, method 3), and 62 random bits."""
    milliseconds, fraction = divmod(epoch_s * 1000, 1)
    random_bits = int.from_bytes(os.urandom(8)) >> 2
    return UUID(int=int(milliseconds) << 80 | 7 << 76 | int(fraction * 4096) << 64 | 2 << 62 | random_bits)
