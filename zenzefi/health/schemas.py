"""What the health routes answer."""

from marshmallow import Schema, fields
from marshmallow.validate import OneOf

from zenzefi.health.models import HealthStatus
from zenzefi.web.fields import Timestamp


class HealthSchema(Schema):
    """The service's health."""

    status = fields.String(required=True, validate=OneOf([status.value for status in HealthStatus]))
    timestamp = Timestamp(required=True)
