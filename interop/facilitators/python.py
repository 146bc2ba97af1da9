"""The official Python facilitator behind an HTTP front: schemes `exact` and `upto`, one chain."""

import os
import sys

import uvicorn
from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from hexbytes import HexBytes
from starlette.concurrency import run_in_threadpool
from web3 import HTTPProvider, Web3
from x402 import x402FacilitatorSync
from x402.extensions.eip2612_gas_sponsoring import EIP2612_GAS_SPONSORING
from x402.extensions.erc20_approval_gas_sponsoring import Erc20ApprovalFacilitatorExtension
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.exact import register_exact_evm_facilitator
from x402.mechanisms.evm.upto import UptoEvmFacilitatorScheme
from x402.schemas import parse_payment_payload, parse_payment_requirements

NETWORK = "eip155:84532"
GAS_OF_A_GIFT = 21_000

key, node = os.environ["EVM_PRIVATE_KEY"], os.environ["EVM_RPC_URL"]


class SponsoringSigner(FacilitatorWeb3Signer):
    """Carries out a payer's approval and what needs it, each mined before the next.

    The SDK leaves that to whoever runs it.
    """

    def send_transactions(self, transactions: list) -> list[str]:
        hashes = []
        for transaction in transactions:
            if isinstance(transaction, str):
                hashes.append(self._send_signed(HexBytes(transaction)))
            else:
                call = transaction
                hashes.append(
                    self.write_contract(
                        call.address, call.abi, call.function, *call.args, data_suffix=call.data_suffix
                    )
                )
            self.wait_for_transaction_receipt(hashes[-1])
        return hashes

    def _send_signed(self, raw: HexBytes) -> str:
        """Gives the sender the wei that it lacks, and sends."""
        web3 = Web3(HTTPProvider(node))
        fields = TypedTransaction.from_bytes(raw).as_dict()
        payer = Account.recover_transaction(raw)
        lacks = fields["gas"] * fields["maxFeePerGas"] - web3.eth.get_balance(payer)
        if lacks > 0:
            gift = {
                "to": payer,
                "value": lacks,
                "gas": GAS_OF_A_GIFT,
                "gasPrice": web3.eth.gas_price,
                "nonce": web3.eth.get_transaction_count(self.address, "pending"),
                "chainId": web3.eth.chain_id,
            }
            sent = web3.eth.send_raw_transaction(Account.sign_transaction(gift, key).raw_transaction)
            web3.eth.wait_for_transaction_receipt(sent)
        return web3.eth.send_raw_transaction(raw).to_0x_hex()


signer = SponsoringSigner(private_key=key, rpc_url=node)
facilitator = x402FacilitatorSync()
register_exact_evm_facilitator(
    facilitator, signer, networks=NETWORK, eip6492_allowed_factories=os.environ["FACTORIES"].split(",")
)
facilitator.register([NETWORK], UptoEvmFacilitatorScheme(signer))
facilitator.register_extension(EIP2612_GAS_SPONSORING)
facilitator.register_extension(Erc20ApprovalFacilitatorExtension(signer=signer))

app = FastAPI()


async def answer_with(operation: object, request: Request) -> JSONResponse:
    """Answers a POST of `{paymentPayload, paymentRequirements}` with what the SDK says."""
    body = await request.json()
    try:
        payload = parse_payment_payload(body["paymentPayload"])
        requirements = parse_payment_requirements(payload.x402_version, body["paymentRequirements"])
        result = await run_in_threadpool(operation, payload, requirements)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is a 500, as in the SDK's examples
        print(request.url.path, repr(error), file=sys.stderr, flush=True)
        return JSONResponse({"error": str(error)}, status_code=500)
    answer = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    print(request.url.path, answer, file=sys.stderr, flush=True)
    return JSONResponse(answer)


@app.get("/supported")
def supported() -> JSONResponse:
    return JSONResponse(facilitator.get_supported().model_dump(mode="json", by_alias=True, exclude_none=True))


@app.post("/verify")
async def verify(request: Request) -> JSONResponse:
    return await answer_with(facilitator.verify, request)


@app.post("/settle")
async def settle(request: Request) -> JSONResponse:
    return await answer_with(facilitator.settle, request)


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="info")
