"""What the Python clients share: who pays, what they are told, and the lines they answer.

clients/payer.mjs knows the same accounts.
"""

import json
import sys
import traceback
from collections.abc import Callable

from eth_abi import encode
from eth_account import Account
from eth_utils import to_bytes
from x402.http.utils import decode_payment_required_header
from x402.mechanisms.evm import EthAccountSigner, EthAccountSignerWithRPC
from x402.mechanisms.evm.exact.register import register_exact_evm_client
from x402.mechanisms.evm.upto import UptoEvmClientScheme

REQUEST_TIMEOUT_SECONDS = 30
ERC6492_SUFFIX = bytes.fromhex("6492" * 16)


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


def with_schemes(client: object, settings: dict[str, str]) -> object:
    """Lets a client of either kind pay by everything that the servers here ask for."""
    signer = payer(settings)
    register_exact_evm_client(client, signer)
    client.register("eip155:*", UptoEvmClientScheme(signer))
    return client


def request_of(settings: dict[str, str]) -> tuple[str, str, str | None, dict[str, str]]:
    """Method, URL, body and headers of what is bought."""
    body = settings.get("BODY")
    headers = {} if body is None else {"content-type": "application/json"}
    return settings.get("METHOD", "GET"), settings["URL"], body, headers


def answer(http_client: object, response: object, text: str, payment: str | None) -> dict[str, object]:
    """What came of one purchase."""
    try:
        settled = http_client.get_payment_settle_response(response.headers.get)
        outcome = settled.model_dump(mode="json", by_alias=True, exclude_none=True)
    except ValueError:
        outcome = None
    body = json_or_text(text)
    return {
        "status": response.status_code,
        "body": body,
        "outcome": outcome,
        "error": refusal(response, body),
        "payment": payment,
    }


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


def answer_lines(buy: Callable[[dict[str, str]], dict[str, object]]) -> None:
    """Answers each line of standard input, settings as one JSON object, with one line."""
    for line in sys.stdin:
        try:
            bought = buy(json.loads(line))
        except Exception:  # noqa: BLE001 - the case tells what went wrong
            bought = {"threw": traceback.format_exc()}
        print(json.dumps(bought), flush=True)
