"""Sells with the official Python SDK's FastAPI middleware what goods.py has.

`?charge=N` says what to charge of a ceiling.
"""

import json
import os

import uvicorn
from fastapi import FastAPI, Request, Response
from goods import facilitator, goods, routes, with_schemes
from x402.http import HTTPFacilitatorClient
from x402.http.middleware.fastapi import PaymentMiddlewareASGI, set_settlement_overrides
from x402.server import x402ResourceServer

port = int(os.environ["PORT"])
sold = goods()
server = with_schemes(x402ResourceServer(HTTPFacilitatorClient(facilitator())))

app = FastAPI()
app.add_middleware(PaymentMiddlewareASGI, routes=routes(sold), server=server)


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"up": True}


async def paid(response: Response, charge: str | None = None) -> dict[str, object]:
    if charge is not None:
        set_settlement_overrides(response, {"amount": charge})
    return {"ok": True, "server": "fastapi-v2"}


for path in sold:
    app.get(path)(paid)


@app.post("/paid")
async def paid_with_body(request: Request) -> dict[str, object]:
    return {"ok": True, "server": "fastapi-v2", "received": await request.json()}


print(json.dumps({"starting": True, "url": f"http://127.0.0.1:{port}"}), flush=True)
uvicorn.run(app, host="127.0.0.1", port=port, log_level="info")
