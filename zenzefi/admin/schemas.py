"""What the admin routes answer."""

from marshmallow import Schema, fields


class RateLimitSchema(Schema):
    """What is used and left of a limit."""

    limit_class = fields.String(required=True, data_key="class")
    subject = fields.String(required=True)
    limit = fields.Integer(required=True)
    window = fields.Integer(required=True, metadata={"description": "seconds"})
    used = fields.Integer(required=True)
    remaining = fields.Integer(required=True)
