// Buys one resource with x402-axios, the v1 client, stock settings (at most 0.1 USDC).
import axios from "axios";
import { createSigner, decodeXPaymentResponse, withPaymentInterceptor } from "x402-axios";
import { report, requestFromEnvironment } from "../environment.mjs";

const { url, privateKey, method, body } = requestFromEnvironment();
const api = withPaymentInterceptor(axios.create(), await createSigner("base-sepolia", privateKey));
const headers = body === undefined ? {} : { "content-type": "application/json" };
let response;
try {
  response = await api.request({ url, method, headers, data: body });
} catch (error) {
  // axios throws for a 402 that stays a 402; the answer is inside the error.
  if (!error.response) throw error;
  response = error.response;
}
const outcome = response.headers["x-payment-response"];
report({
  status: response.status,
  body: response.data,
  outcome: outcome ? decodeXPaymentResponse(outcome) : null,
  error: response.data.error ?? null,
});
