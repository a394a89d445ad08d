"""What the route of usage takes and gives."""

from marshmallow import Schema, fields, validate

from zenzefi.rollups.models import Bucket
from zenzefi.web.fields import Timestamp


class UsageQuerySchema(Schema):
    """Which usage is asked for."""

    begin = Timestamp(data_key="from", load_default=None, metadata={"description": "Lowered to a whole hour or day"})
    end = Timestamp(data_key="to", load_default=None, metadata={"description": "Raised to a whole hour or day"})
    bucket = fields.Enum(Bucket, by_value=True, load_default=Bucket.DAY)
    token_id = fields.UUID(load_default=None, metadata={"description": "Only the usage of this token of mine"})


class BucketUsageSchema(Schema):
    """What was used in one hour or day of UTC."""

    start = Timestamp(required=True)
    requests = fields.Integer(required=True)
    bytes_in = fields.Integer(required=True)
    bytes_out = fields.Integer(required=True)


class UsageReportSchema(Schema):
    """Usage of a span of time, the oldest bucket first; buckets without usage are left out."""

    begin = Timestamp(data_key="from", required=True)
    end = Timestamp(data_key="to", required=True)
    bucket = fields.String(required=True, validate=validate.OneOf([bucket.value for bucket in Bucket]))
    items = fields.List(fields.Nested(BucketUsageSchema), required=True)
