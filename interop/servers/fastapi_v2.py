"""Sells `/paid` with the official Python SDK's FastAPI middleware."""

import json
import os

import uvicorn
from fastapi import FastAPI, Request
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, PaymentOption
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.http.types import RouteConfig
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.server import x402ResourceServer

port = int(os.environ["PORT"])
network = os.environ["NETWORK"]
terms = RouteConfig(
    accepts=[
        PaymentOption(
            scheme="exact",
            network=network,
            pay_to=os.environ["PAYEE"],
            price=os.environ.get("PRICE", "$0.001"),
        )
    ],
    mime_type="application/json",
    description="interop",
)
server = x402ResourceServer(HTTPFacilitatorClient(FacilitatorConfig(url=os.environ["FACILITATOR_URL"])))
server.register(network, ExactEvmServerScheme())

app = FastAPI()
app.add_middleware(
    PaymentMiddlewareASGI, routes={"GET /paid": terms, "POST /paid": terms}, server=server
)


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"up": True}


@app.get("/paid")
async def paid() -> dict[str, object]:
    return {"ok": True, "server": "fastapi-v2"}


@app.post("/paid")
async def paid_with_body(request: Request) -> dict[str, object]:
    return {"ok": True, "server": "fastapi-v2", "received": await request.json()}


print(json.dumps({"starting": True, "url": f"http://127.0.0.1:{port}"}), flush=True)
uvicorn.run(app, host="127.0.0.1", port=port, log_level="info")
