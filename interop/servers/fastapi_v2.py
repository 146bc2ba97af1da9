"""Sells with the official Python SDK's FastAPI middleware what servers/goods.mjs sells.

`?charge=N` says what to charge of a ceiling.
"""

import json
import os

import uvicorn
from fastapi import FastAPI, Request, Response
from x402.extensions.eip2612_gas_sponsoring import declare_eip2612_gas_sponsoring_extension
from x402.extensions.erc20_approval_gas_sponsoring import declare_erc20_approval_gas_sponsoring_extension
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, PaymentOption
from x402.http.middleware.fastapi import PaymentMiddlewareASGI, set_settlement_overrides
from x402.http.types import RouteConfig
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.mechanisms.evm.upto import UptoEvmServerScheme
from x402.schemas import AssetAmount
from x402.server import x402ResourceServer

DOMAIN = {"name": "USDC", "version": "2"}

port = int(os.environ["PORT"])
network = os.environ["NETWORK"]


def terms(scheme: str, price: object, extensions: dict | None = None) -> RouteConfig:
    """What one path asks for."""
    option = PaymentOption(scheme=scheme, network=network, pay_to=os.environ["PAYEE"], price=price)
    return RouteConfig(
        accepts=[option], mime_type="application/json", description="interop", extensions=extensions
    )


def through_permit2(amount: str, domain: dict) -> AssetAmount:
    """An amount of the token that Permit2 moves."""
    extra = {"assetTransferMethod": "permit2", **domain}
    return AssetAmount(amount=amount, asset=os.environ["TOKEN"], extra=extra)


goods = {"/paid": terms("exact", os.environ.get("PRICE", "$0.001"))}
for path, scheme, amount in (
    ("/permit2", "exact", os.environ["AMOUNT"]),
    ("/upto", "upto", os.environ["CEILING"]),
):
    goods[path] = terms(scheme, through_permit2(amount, DOMAIN))
    goods[f"{path}-eip2612"] = terms(
        scheme, through_permit2(amount, DOMAIN), declare_eip2612_gas_sponsoring_extension()
    )
    goods[f"{path}-approval"] = terms(
        scheme, through_permit2(amount, {}), declare_erc20_approval_gas_sponsoring_extension()
    )

server = x402ResourceServer(HTTPFacilitatorClient(FacilitatorConfig(url=os.environ["FACILITATOR_URL"])))
server.register(network, ExactEvmServerScheme())
server.register(network, UptoEvmServerScheme())

app = FastAPI()
routes = {f"GET {path}": sold for path, sold in goods.items()}
app.add_middleware(
    PaymentMiddlewareASGI, routes={**routes, "POST /paid": goods["/paid"]}, server=server
)


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"up": True}


async def paid(response: Response, charge: str | None = None) -> dict[str, object]:
    if charge is not None:
        set_settlement_overrides(response, {"amount": charge})
    return {"ok": True, "server": "fastapi-v2"}


for path in goods:
    app.get(path)(paid)


@app.post("/paid")
async def paid_with_body(request: Request) -> dict[str, object]:
    return {"ok": True, "server": "fastapi-v2", "received": await request.json()}


print(json.dumps({"starting": True, "url": f"http://127.0.0.1:{port}"}), flush=True)
uvicorn.run(app, host="127.0.0.1", port=port, log_level="info")
