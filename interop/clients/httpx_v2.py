"""Buys one resource with the official Python client over httpx, stock settings."""

import asyncio
import json
import os

from eth_account import Account
from x402 import x402Client
from x402.http import x402HTTPClient
from x402.http.clients import x402HttpxClient
from x402.http.utils import decode_payment_required_header
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact.register import register_exact_evm_client

REQUEST_TIMEOUT_SECONDS = 30


def json_or_text(text: str) -> object:
    """Parses JSON where it is JSON, and keeps the text where it is not."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def refusal(response: object, body: object) -> str | None:
    """Why a payment was refused: the v2 header says it, or the v1 body."""
    price = response.headers.get("payment-required")
    if price:
        return decode_payment_required_header(price).error
    return body.get("error") if isinstance(body, dict) else None


async def main() -> None:
    payer = EthAccountSigner(Account.from_key(os.environ["EVM_PRIVATE_KEY"]))
    client = register_exact_evm_client(x402Client(), payer)
    body = os.environ.get("BODY")
    headers = {} if body is None else {"content-type": "application/json"}
    async with x402HttpxClient(client, timeout=REQUEST_TIMEOUT_SECONDS) as http:
        response = await http.request(
            os.environ.get("METHOD", "GET"), os.environ["URL"], content=body, headers=headers
        )
        text = (await response.aread()).decode()
    try:
        settled = x402HTTPClient(client).get_payment_settle_response(response.headers.get)
        outcome = settled.model_dump(mode="json", by_alias=True, exclude_none=True)
    except ValueError:
        outcome = None
    answer = json_or_text(text)
    error = refusal(response, answer)
    print(json.dumps({"status": response.status_code, "body": answer, "outcome": outcome, "error": error}))


asyncio.run(main())
