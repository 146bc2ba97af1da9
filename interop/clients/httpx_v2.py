"""Buys with the official Python client over httpx, stock settings.

One purchase for each line of standard input, settings as one JSON object. The payer is the key's own
account; with WALLET a contract account that the key owns, and with WALLET_FACTORY one that is not
deployed yet. With EVM_RPC_URL the client looks whether Permit2 needs an allowance.
"""

import asyncio
import json
import sys
import traceback

import httpx
from eth_abi import encode
from eth_account import Account
from eth_utils import to_bytes
from x402 import x402Client
from x402.http import x402HTTPClient
from x402.http.clients import x402_httpx_transport
from x402.http.utils import decode_payment_required_header
from x402.mechanisms.evm import EthAccountSigner, EthAccountSignerWithRPC
from x402.mechanisms.evm.exact.register import register_exact_evm_client
from x402.mechanisms.evm.upto import UptoEvmClientScheme

REQUEST_TIMEOUT_SECONDS = 30
ERC6492_SUFFIX = bytes.fromhex("6492" * 16)


class WatchedTransport(httpx.AsyncHTTPTransport):
    """Notes the header that pays."""

    payment: str | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.payment = request.headers.get("payment-signature", self.payment)
        return await super().handle_async_request(request)


class WalletSigner:
    """A contract account: its owner signs, wrapped by ERC-6492 while it is not deployed."""

    def __init__(self, owner: EthAccountSigner, settings: dict[str, str]) -> None:
        self._owner = owner
        self._settings = settings
        self.address = settings["WALLET"]

    def sign_typed_data(self, *message: object) -> bytes:
        signature = self._owner.sign_typed_data(*message)
        factory = self._settings.get("WALLET_FACTORY")
        if factory is None:
            return signature
        call = to_bytes(hexstr=self._settings["WALLET_FACTORY_DATA"])
        return encode(["address", "bytes", "bytes"], [factory, call, signature]) + ERC6492_SUFFIX


def payer(settings: dict[str, str]) -> object:
    """Who pays."""
    account = Account.from_key(settings["EVM_PRIVATE_KEY"])
    if "WALLET" in settings:
        return WalletSigner(EthAccountSigner(account), settings)
    node = settings.get("EVM_RPC_URL")
    return EthAccountSignerWithRPC(account, rpc_url=node) if node else EthAccountSigner(account)


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


async def buy(settings: dict[str, str]) -> dict[str, object]:
    """One purchase."""
    signer = payer(settings)
    client = register_exact_evm_client(x402Client(), signer)
    client.register("eip155:*", UptoEvmClientScheme(signer))
    body = settings.get("BODY")
    headers = {} if body is None else {"content-type": "application/json"}
    watched = WatchedTransport()
    transport = x402_httpx_transport(client, watched)
    async with httpx.AsyncClient(transport=transport, timeout=REQUEST_TIMEOUT_SECONDS) as http:
        response = await http.request(
            settings.get("METHOD", "GET"), settings["URL"], content=body, headers=headers
        )
        text = (await response.aread()).decode()
    try:
        settled = x402HTTPClient(client).get_payment_settle_response(response.headers.get)
        outcome = settled.model_dump(mode="json", by_alias=True, exclude_none=True)
    except ValueError:
        outcome = None
    answer = json_or_text(text)
    return {
        "status": response.status_code,
        "body": answer,
        "outcome": outcome,
        "error": refusal(response, answer),
        "payment": watched.payment,
    }


for line in sys.stdin:
    try:
        bought = asyncio.run(buy(json.loads(line)))
    except Exception:  # noqa: BLE001 - the case tells what went wrong
        bought = {"threw": traceback.format_exc()}
    print(json.dumps(bought), flush=True)
