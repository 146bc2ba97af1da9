"""Sells with the official Python SDK's Flask middleware what goods.py has.

`?charge=N` says what to charge of a ceiling.
"""

import json
import os

from flask import Flask, Response, jsonify, request
from goods import facilitator, goods, routes, with_schemes
from x402.http import HTTPFacilitatorClientSync
from x402.http.middleware.flask import payment_middleware, set_settlement_overrides
from x402.server import x402ResourceServerSync

port = int(os.environ["PORT"])
sold = goods()
server = with_schemes(x402ResourceServerSync(HTTPFacilitatorClientSync(facilitator())))

app = Flask(__name__)
payment_middleware(app, routes(sold), server)


@app.get("/health")
def health() -> Response:
    return jsonify(up=True)


def paid() -> Response:
    response = jsonify(ok=True, server="flask-v2")
    charge = request.args.get("charge")
    if charge is not None:
        set_settlement_overrides(response, {"amount": charge})
    return response


for path in sold:
    app.add_url_rule(path, endpoint=f"get {path}", view_func=paid)


@app.post("/paid")
def paid_with_body() -> Response:
    return jsonify(ok=True, server="flask-v2", received=request.get_json())


print(json.dumps({"starting": True, "url": f"http://127.0.0.1:{port}"}), flush=True)
app.run(host="127.0.0.1", port=port, threaded=True)
