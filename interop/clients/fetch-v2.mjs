// Buys one resource with @x402/fetch, stock settings: default spend controls, scheme `exact` on every EVM network.
import { decodePaymentResponseHeader, wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import { decodePaymentRequiredHeader } from "@x402/core/http";
import { ExactEvmScheme } from "@x402/evm";
import { privateKeyToAccount } from "viem/accounts";
import { jsonOrText, report, requestFromEnvironment } from "../environment.mjs";

const { url, privateKey, method, body } = requestFromEnvironment();
const pay = wrapFetchWithPaymentFromConfig(fetch, {
  schemes: [{ network: "eip155:*", client: new ExactEvmScheme(privateKeyToAccount(privateKey)) }],
});
const headers = body === undefined ? {} : { "content-type": "application/json" };
const response = await pay(url, { method, headers, body });
const price = response.headers.get("payment-required");
const outcome = response.headers.get("payment-response");
report({
  status: response.status,
  body: jsonOrText(await response.text()),
  outcome: outcome ? decodePaymentResponseHeader(outcome) : null,
  error: price ? decodePaymentRequiredHeader(price).error : null,
});
