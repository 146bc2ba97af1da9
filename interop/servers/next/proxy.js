// The payment middleware of both SDKs around routes that know nothing of payments.
import { paymentProxy } from "@x402/next";
import { paymentMiddleware } from "x402-next";
import { lazily } from "./sale.mjs";
import { termsV1 } from "./v1.mjs";
import { termsV2 } from "./v2.mjs";

const v1 = lazily(() => {
  const { payTo, terms, facilitator } = termsV1();
  return paymentMiddleware(payTo, { "GET /v1/proxied": terms }, facilitator);
});
const v2 = lazily(() => {
  const { terms, server } = termsV2();
  return paymentProxy({ "GET /v2/proxied": terms }, server);
});

export function proxy(request) {
  return request.nextUrl.pathname.startsWith("/v1/") ? v1(request) : v2(request);
}

export const config = { matcher: ["/v1/proxied", "/v2/proxied"] };
