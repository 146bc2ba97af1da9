// Buys one resource with @x402/axios, stock settings.
import axios from "axios";
import { decodePaymentResponseHeader, wrapAxiosWithPaymentFromConfig } from "@x402/axios";
import { decodePaymentRequiredHeader } from "@x402/core/http";
import { report, requestFromEnvironment } from "../environment.mjs";
import { schemesFrom } from "./payer.mjs";

const { url, method, body } = requestFromEnvironment();
const api = wrapAxiosWithPaymentFromConfig(axios.create(), { schemes: schemesFrom(process.env) });
const headers = body === undefined ? {} : { "content-type": "application/json" };
let response;
try {
  response = await api.request({ url, method, headers, data: body });
} catch (error) {
  // axios throws for a 402 that stays a 402; the answer is inside the error.
  if (!error.response) throw error;
  response = error.response;
}
const price = response.headers["payment-required"];
const outcome = response.headers["payment-response"];
report({
  status: response.status,
  body: response.data,
  outcome: outcome ? decodePaymentResponseHeader(outcome) : null,
  error: price ? decodePaymentRequiredHeader(price).error : null,
  payment: response.config.headers.get("payment-signature") ?? null,
});
