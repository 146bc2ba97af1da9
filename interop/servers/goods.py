"""What the Python servers here sell: one path for each way to pay. servers/goods.mjs has the same."""

import os

from x402.extensions.eip2612_gas_sponsoring import declare_eip2612_gas_sponsoring_extension
from x402.extensions.erc20_approval_gas_sponsoring import declare_erc20_approval_gas_sponsoring_extension
from x402.http import CreateHeadersAuthProvider, FacilitatorConfig, PaymentOption
from x402.http.types import RouteConfig
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.mechanisms.evm.upto import UptoEvmServerScheme
from x402.schemas import AssetAmount

DOMAIN = {"name": "USDC", "version": "2"}
NETWORK = os.environ["NETWORK"]


def terms(
    scheme: str, price: object, extensions: dict | None = None, max_timeout_seconds: int | None = None
) -> RouteConfig:
    """What one path asks for."""
    option = PaymentOption(
        scheme=scheme,
        network=NETWORK,
        pay_to=os.environ["PAYEE"],
        price=price,
        max_timeout_seconds=max_timeout_seconds,
    )
    return RouteConfig(
        accepts=[option], mime_type="application/json", description="interop", extensions=extensions
    )


def through_permit2(amount: str, domain: dict) -> AssetAmount:
    """An amount of the token that Permit2 moves."""
    extra = {"assetTransferMethod": "permit2", **domain}
    return AssetAmount(amount=amount, asset=os.environ["TOKEN"], extra=extra)


def goods() -> dict[str, RouteConfig]:
    """What each path asks for."""
    timeout = os.environ.get("MAX_TIMEOUT_S")
    plain = terms(
        "exact",
        os.environ.get("PRICE", "$0.001"),
        max_timeout_seconds=None if timeout is None else int(timeout),
    )
    sold = {"/paid": plain}
    for path, scheme, amount in (
        ("/permit2", "exact", os.environ["AMOUNT"]),
        ("/upto", "upto", os.environ["CEILING"]),
    ):
        sold[path] = terms(scheme, through_permit2(amount, DOMAIN))
        sold[f"{path}-eip2612"] = terms(
            scheme, through_permit2(amount, DOMAIN), declare_eip2612_gas_sponsoring_extension()
        )
        sold[f"{path}-approval"] = terms(
            scheme, through_permit2(amount, {}), declare_erc20_approval_gas_sponsoring_extension()
        )
    return sold


def routes(sold: dict[str, RouteConfig]) -> dict[str, RouteConfig]:
    """The routes for a payment middleware."""
    return {**{f"GET {path}": asked for path, asked in sold.items()}, "POST /paid": sold["/paid"]}


def facilitator() -> FacilitatorConfig:
    """Where the facilitator is, and how to prove oneself to it where FACILITATOR_KEY is set."""
    url = os.environ["FACILITATOR_URL"]
    key = os.environ.get("FACILITATOR_KEY")
    if key is None:
        return FacilitatorConfig(url=url)
    headers = {"Authorization": f"Bearer {key}"}
    provider = CreateHeadersAuthProvider(
        lambda: {"verify": headers, "settle": headers, "supported": headers}
    )
    return FacilitatorConfig(url=url, auth_provider=provider)


def with_schemes(server: object) -> object:
    """Registers what is sold here with a resource server of either kind."""
    server.register(NETWORK, ExactEvmServerScheme())
    server.register(NETWORK, UptoEvmServerScheme())
    return server
