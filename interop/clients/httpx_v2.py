"""Buys with the official Python client over httpx, stock settings.

One purchase for each line of standard input, settings as one JSON object. The payer is the key's own
account; with WALLET a contract account that the key owns, and with WALLET_FACTORY one that is not
deployed yet. With EVM_RPC_URL the client looks whether Permit2 needs an allowance.
"""

import asyncio

import httpx
from payer import REQUEST_TIMEOUT_SECONDS, answer, answer_lines, request_of, with_schemes
from x402 import x402Client
from x402.http import x402HTTPClient
from x402.http.clients import x402_httpx_transport


class WatchedTransport(httpx.AsyncHTTPTransport):
    """Notes the header that pays."""

    payment: str | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        paying = request.headers.get("payment-signature", request.headers.get("x-payment"))
        self.payment = paying or self.payment
        return await super().handle_async_request(request)


async def buy(settings: dict[str, str]) -> dict[str, object]:
    """One purchase."""
    client = with_schemes(x402Client(), settings)
    method, url, body, headers = request_of(settings)
    watched = WatchedTransport()
    transport = x402_httpx_transport(client, watched)
    async with httpx.AsyncClient(transport=transport, timeout=REQUEST_TIMEOUT_SECONDS) as http:
        response = await http.request(method, url, content=body, headers=headers)
        text = (await response.aread()).decode()
    return answer(x402HTTPClient(client), response, text, watched.payment)


answer_lines(lambda settings: asyncio.run(buy(settings)))
