"""Buys with the official Python SDK's requests adapter, stock settings: default spend controls.

One purchase for each line of standard input, as clients/httpx_v2.py.
"""

import requests
from payer import REQUEST_TIMEOUT_SECONDS, answer, answer_lines, request_of, with_schemes
from x402 import x402ClientSync
from x402.http import x402HTTPClientSync
from x402.http.clients import x402_http_adapter


def buy(settings: dict[str, str]) -> dict[str, object]:
    """One purchase."""
    client = with_schemes(x402ClientSync(), settings)
    method, url, body, headers = request_of(settings)
    with requests.Session() as session:
        session.mount("http://", x402_http_adapter(client))
        response = session.request(
            method, url, data=body, headers=headers, timeout=REQUEST_TIMEOUT_SECONDS
        )
    sent = response.request.headers
    payment = sent.get("payment-signature", sent.get("x-payment"))
    return answer(x402HTTPClientSync(client), response, response.text, payment)


answer_lines(buy)
