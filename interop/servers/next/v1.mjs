// The terms in version 1, for x402-next.
import { saleOf } from "./sale.mjs";

/** What one path asks for, and who is paid through whom: `{payTo, terms, facilitator}`. */
export function termsV1() {
  const { facilitator, network, payTo, price, maxTimeoutSeconds } = saleOf("v1");
  const config = { description: "interop", mimeType: "application/json", maxTimeoutSeconds };
  return { payTo, terms: { price, network, config }, facilitator };
}
