"""HTTP of payments: the payer's side, and the providers' events."""

import json
from collections.abc import Mapping
from uuid import UUID

from aiohttp import web

from zenzefi.infra.db import Connection
from zenzefi.wallet import payments, settlement
from zenzefi.wallet.payment_errors import PaymentNotFound
from zenzefi.wallet.payment_models import Notice
from zenzefi.wallet.payment_schemas import PaymentSchema, ReceivedSchema, StartedPaymentSchema, TopUpSchema
from zenzefi.web.addresses import client_ip
from zenzefi.web.auth import actor_of, public
from zenzefi.web.declare import docs, json_schema, response_schema
from zenzefi.web.idempotency import KEY_PARAMETER, REPLAYED_HEADER, respond_once
from zenzefi.web.keys import CTX, IDENTITY, JSON
from zenzefi.web.responses import json_response

_PAYMENT = PaymentSchema()


@docs(
    tags=["wallet"],
    summary="Top up by a payment",
    description="Answers with the page to pay on. The wallet is credited once the provider reports success.",
    parameters=[KEY_PARAMETER],
)
@json_schema(TopUpSchema())
@response_schema(StartedPaymentSchema(), 201, description="The payment, to be paid at payment_url")
async def post_purchase(request: web.Request) -> web.Response:
    """Begin a payment in one transaction, and have its page made outside of it.

    The begun payment is the answer that is kept for the Idempotency-Key: a repetition goes on with the same one.
    """
    ctx, body = request.app[CTX], request[JSON]

    async def create(conn: Connection) -> Mapping[str, object]:
        payment = await payments.create(
            conn,
            ctx=ctx,
            user_id=request[IDENTITY].user_id,
            amount_znc=body["amount_znc"],
            return_url=body["return_url"],
            actor=actor_of(request),
        )
        return {
            "payment_id": payment.id,
            "amount_znc": payment.amount_znc,
            "amount": payment.amount,
            "currency": payment.currency,
            "status": payment.status,
        }

    begun = await respond_once(request, create)
    answer = json.loads(begun.text or "")
    answer["payment_url"] = await payments.open_page(
        ctx, payment_id=UUID(answer["payment_id"]), actor=actor_of(request)
    )
    replayed = {name: value for name, value in begun.headers.items() if name == REPLAYED_HEADER}
    return json_response(answer, status=201, headers=replayed)


@docs(tags=["wallet"], summary="One of your payments, and what became of it")
@response_schema(PaymentSchema(), 200, description="The payment")
async def get_payment(request: web.Request) -> web.Response:
    """Show one of one's own payments."""
    payment, timeline = await payments.get_payment(
        request.app[CTX], user_id=request[IDENTITY].user_id, payment_id=_payment_id(request)
    )
    return json_response({**_PAYMENT.dump(payment), "timeline": _PAYMENT.dump({"timeline": timeline})["timeline"]})


@docs(
    tags=["webhooks"],
    summary="An event of a payment provider",
    description="For the provider only. 200 says that what the event reports is committed; deliver it again otherwise.",
    requestBody={"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
)
@response_schema(ReceivedSchema(), 200, description="The event has been taken care of")
@public
async def post_payment_event(request: web.Request) -> web.Response:
    """Take an event; whether to believe it is the provider's adapter's to say, by its raw bytes."""
    ctx = request.app[CTX]
    notice = Notice(
        body=await request.read(),
        headers={name.lower(): tuple(request.headers.getall(name)) for name in set(request.headers)},
        source=client_ip(request),
        received_at=ctx.now(),
    )
    await settlement.receive(ctx, provider_name=request.match_info["provider"], notice=notice, actor=actor_of(request))
    return json_response({"received": True})


ROUTES = [
    web.post("/api/v1/currency/purchase", post_purchase),
    web.get("/api/v1/currency/payments/{payment_id}", get_payment),
    web.post("/api/v1/webhooks/payments/{provider}", post_payment_event),
]


def _payment_id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["payment_id"])
    except ValueError:
        raise PaymentNotFound from None
