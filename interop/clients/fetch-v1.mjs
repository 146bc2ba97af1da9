// Buys one resource with x402-fetch, the v1 client, stock settings (at most 0.1 USDC).
import { createSigner, decodeXPaymentResponse, wrapFetchWithPayment } from "x402-fetch";
import { jsonOrText, report, requestFromEnvironment } from "../environment.mjs";

const { url, privateKey, method, body } = requestFromEnvironment();
const pay = wrapFetchWithPayment(fetch, await createSigner("base-sepolia", privateKey));
const headers = body === undefined ? {} : { "content-type": "application/json" };
const response = await pay(url, { method, headers, body });
const outcome = response.headers.get("x-payment-response");
const content = jsonOrText(await response.text());
report({
  status: response.status,
  body: content,
  outcome: outcome ? decodeXPaymentResponse(outcome) : null,
  error: content.error ?? null,
});
