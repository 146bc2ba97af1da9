// The terms in version 2, for @x402/next.
import { HTTPFacilitatorClient, x402ResourceServer } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { saleOf } from "./sale.mjs";

/** What one path asks for, and the resource server that asks: `{terms, server}`. */
export function termsV2() {
  const { facilitator, network, payTo, price, maxTimeoutSeconds } = saleOf("v2");
  const accepts = { scheme: "exact", network, payTo, price, maxTimeoutSeconds };
  const server = new x402ResourceServer(new HTTPFacilitatorClient(facilitator)).register(network, new ExactEvmScheme());
  return { terms: { accepts, description: "interop", mimeType: "application/json" }, server };
}
