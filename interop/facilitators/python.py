"""The official Python facilitator behind an HTTP front: schemes `exact` and `upto`, one chain."""

import os
import sys

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from x402 import x402FacilitatorSync
from x402.extensions.eip2612_gas_sponsoring import EIP2612_GAS_SPONSORING
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.exact import register_exact_evm_facilitator
from x402.mechanisms.evm.upto import UptoEvmFacilitatorScheme
from x402.schemas import parse_payment_payload, parse_payment_requirements

NETWORK = "eip155:84532"

signer = FacilitatorWeb3Signer(
    private_key=os.environ["EVM_PRIVATE_KEY"], rpc_url=os.environ["EVM_RPC_URL"]
)
facilitator = x402FacilitatorSync()
register_exact_evm_facilitator(
    facilitator, signer, networks=NETWORK, eip6492_allowed_factories=os.environ["FACTORIES"].split(",")
)
facilitator.register([NETWORK], UptoEvmFacilitatorScheme(signer))
facilitator.register_extension(EIP2612_GAS_SPONSORING)

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
