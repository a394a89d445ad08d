"""The words of this slice: buckets of time, and what was used in one."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Bucket(StrEnum):
    """What usage is summed by: hours and days of UTC."""

    HOUR = "hour"
    DAY = "day"


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketUsage:
    """What was used in the hour or day that begins at `start`."""

    start: datetime
    requests: int
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """Usage from one instant to before another, both the bounds of buckets; only buckets with usage are in it."""

    begin: datetime
    end: datetime
    bucket: Bucket
    items: list[BucketUsage]
