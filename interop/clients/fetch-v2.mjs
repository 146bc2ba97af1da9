// Buys with @x402/fetch, stock settings: default spend controls. One purchase for each line of standard input.
import { decodePaymentResponseHeader, wrapFetchWithPaymentFromConfig } from "@x402/fetch";
import { decodePaymentRequiredHeader } from "@x402/core/http";
import { answerLines, jsonOrText, requestFrom, withClockBehind } from "../environment.mjs";
import { schemesFrom } from "./payer.mjs";

await answerLines(async (settings) => {
  const { url, method, body, clockBehind } = requestFrom(settings);
  let payment = null;
  const watched = (input, init) => {
    const request = new Request(input, init);
    payment = request.headers.get("payment-signature") ?? payment;
    return fetch(request);
  };
  const pay = wrapFetchWithPaymentFromConfig(watched, { schemes: schemesFrom(settings) });
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  const response = await withClockBehind(clockBehind, () => pay(url, { method, headers, body }));
  const price = response.headers.get("payment-required");
  const outcome = response.headers.get("payment-response");
  return {
    status: response.status,
    body: jsonOrText(await response.text()),
    outcome: outcome ? decodePaymentResponseHeader(outcome) : null,
    error: price ? decodePaymentRequiredHeader(price).error : null,
    payment,
  };
});
