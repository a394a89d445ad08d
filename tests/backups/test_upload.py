"""How long the parts of an upload are: pure arithmetic, for sizes that no test uploads."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zenzefi.backups.upload import MAX_PART, MAX_PARTS, MIB, MIN_PART, first_part_size, part_size

TIB = 1024 * 1024 * MIB
LARGEST_OBJECT = 5 * TIB


@settings(max_examples=30, deadline=None)
@given(expected=st.integers(min_value=0, max_value=LARGEST_OBJECT), factor=st.floats(min_value=1.0, max_value=8.0))
def test_whatever_is_expected_what_comes_fits(expected: int, factor: float) -> None:
    """Even where eight times as much comes as was expected."""
    size = min(int(max(expected, MIN_PART) * factor), LARGEST_OBJECT)
    first = first_part_size(expected)

    sent = number = 0
    while sent < size:
        number += 1
        sent += part_size(number, first=first)

    assert number <= MAX_PARTS
    assert part_size(number, first=first) <= MAX_PART


@pytest.mark.parametrize(("gigabytes", "mebibytes"), [(0, 8), (5, 8), (40, 8), (100, 19), (1000, 191)])
def test_memory_grows_with_the_database_only_past_40_gigabytes(gigabytes: int, mebibytes: int) -> None:
    assert round(first_part_size(gigabytes * 10**9) / MIB) == mebibytes
    assert part_size(5000, first=MIN_PART) == MIN_PART
