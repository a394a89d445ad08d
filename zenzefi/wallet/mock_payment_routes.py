"""The mock provider's own page: whoever has its address pays or cancels, and the wallet hears of it by an event."""

import html

import structlog
from aiohttp import web

from zenzefi.wallet.payment_errors import PaymentNotFound, PaymentProviderError, PaymentProviderUnavailable
from zenzefi.wallet.payment_models import PaymentStatus
from zenzefi.wallet.providers.mock import MockProvider
from zenzefi.web.auth import public
from zenzefi.web.keys import CTX

_CSP = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Mock payment</title>
<style>body {{ font: 1.2rem/1.6 sans-serif; max-width: 32rem; margin: 4rem auto; padding: 0 1rem }}
form {{ display: inline }} button {{ font: inherit; padding: .4rem 1.6rem }}</style></head>
<body><h1>Mock payment</h1><p>{amount} {currency}: <strong>{status}</strong></p>{actions}</body></html>
"""
_ACTIONS = """<form method="post" action="{path}/pay"><button>Pay</button></form>
<form method="post" action="{path}/cancel"><button>Cancel</button></form>"""
_BACK = """<p><a href="{url}">Back</a></p>"""

log = structlog.get_logger(__name__)


@public
async def get_page(request: web.Request) -> web.Response:
    """Show the payment, and what can be done about it."""
    payment = await MockProvider(request.app[CTX]).find_payment(request.match_info["payment_id"])
    if payment is None:
        raise PaymentNotFound
    report = payment.report
    open_still = report.status is PaymentStatus.PENDING
    template, values = (_ACTIONS, {"path": request.path}) if open_still else (_BACK, {"url": payment.return_url})
    page = _PAGE.format(
        amount=html.escape(f"{report.amount:.2f}"),
        currency=html.escape(report.currency),
        status=html.escape(report.status),
        actions=template.format(**{name: html.escape(value) for name, value in values.items()}),
    )
    return web.Response(text=page, content_type="text/html", headers={"Content-Security-Policy": _CSP})


@public
async def post_pay(request: web.Request) -> web.Response:
    """Pay."""
    return await _end(request, PaymentStatus.SUCCEEDED)


@public
async def post_cancel(request: web.Request) -> web.Response:
    """Cancel."""
    return await _end(request, PaymentStatus.CANCELED)


MOCK_PAGE_ROUTES = [
    web.get("/mock-payments/{payment_id}", get_page),
    web.post("/mock-payments/{payment_id}/pay", post_pay),
    web.post("/mock-payments/{payment_id}/cancel", post_cancel),
]


async def _end(request: web.Request, outcome: PaymentStatus) -> web.Response:
    """End the payment, tell the wallet, and send the payer back; what has ended already is told again.

    An event that does not get through is lost, as real ones may be: the job that asks makes up for it.
    """
    provider, payment_id = MockProvider(request.app[CTX]), request.match_info["payment_id"]
    payment = await provider.find_payment(payment_id)
    if payment is None:
        raise PaymentNotFound
    report = await provider.end(payment_id, outcome)
    if report is None:
        raise PaymentNotFound
    try:
        await provider.send_event(report)
    except (PaymentProviderUnavailable, PaymentProviderError) as error:
        log.warning("mock_event_lost", payment_id=payment_id, code=error.code)
    return web.Response(status=303, headers={"Location": payment.return_url})
