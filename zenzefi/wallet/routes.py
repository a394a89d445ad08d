"""HTTP of the wallet: the balance, its history, and development's top-up."""

from aiohttp import web

from zenzefi.errors import JsonObject
from zenzefi.infra.db import Connection
from zenzefi.wallet import service
from zenzefi.wallet.models import CURRENCY
from zenzefi.wallet.schemas import (
    BalanceSchema,
    MockPurchaseSchema,
    TransactionPageSchema,
    TransactionQuerySchema,
    TransactionSchema,
    transaction_json,
)
from zenzefi.web.auth import actor_of
from zenzefi.web.declare import docs, json_schema, querystring_schema, response_schema
from zenzefi.web.idempotency import KEY_PARAMETER, respond_once
from zenzefi.web.keys import CTX, IDENTITY, JSON, QUERY
from zenzefi.web.paging import page_of, page_response
from zenzefi.web.responses import json_response


@docs(tags=["wallet"], summary="The balance of your wallet")
@response_schema(BalanceSchema(), 200, description="The balance")
async def get_balance(request: web.Request) -> web.Response:
    """Answer with the caller's balance."""
    balance = await service.get_balance(request.app[CTX], user_id=request[IDENTITY].user_id)
    return json_response({"balance": balance, "currency": CURRENCY})


@docs(tags=["wallet"], summary="Your transactions, newest first")
@querystring_schema(TransactionQuerySchema())
@response_schema(TransactionPageSchema(), 200, description="A page of transactions")
async def list_transactions(request: web.Request) -> web.Response:
    """Answer with one page of the caller's history."""
    page = page_of(request)
    entries, next_entry_no = await service.list_transactions(
        request.app[CTX],
        user_id=request[IDENTITY].user_id,
        transaction_type=request[QUERY].get("transaction_type"),
        before_entry_no=page.after_number(),
        limit=page.limit,
    )
    return page_response([transaction_json(entry) for entry in entries], next_entry_no)


@docs(
    tags=["wallet"],
    summary="Top up without paying",
    description="Exists in development only, for as long as PAYMENT_PROVIDER is mock.",
    parameters=[KEY_PARAMETER],
)
@json_schema(MockPurchaseSchema())
@response_schema(TransactionSchema(), 201, description="The deposit")
async def post_mock_purchase(request: web.Request) -> web.Response:
    """Credit the caller's wallet."""

    async def deposit(conn: Connection) -> JsonObject:
        entry = await service.deposit_mock_payment(
            conn,
            ctx=request.app[CTX],
            user_id=request[IDENTITY].user_id,
            amount=request[JSON]["amount"],
            actor=actor_of(request),
        )
        return transaction_json(entry)

    return await respond_once(request, deposit, status=201)


ROUTES = [
    web.get("/api/v1/currency/balance", get_balance),
    web.get("/api/v1/currency/transactions", list_transactions),
]
MOCK_PAYMENT_ROUTES = [web.post("/api/v1/currency/mock-purchase", post_mock_purchase)]
