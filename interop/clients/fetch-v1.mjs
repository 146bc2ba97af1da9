// Buys with x402-fetch, the v1 client, stock settings (at most 0.1 USDC). One purchase for each line of standard input.
import { createSigner, decodeXPaymentResponse, wrapFetchWithPayment } from "x402-fetch";
import { answerLines, jsonOrText, requestFrom, withClockBehind } from "../environment.mjs";

await answerLines(async (settings) => {
  const { url, privateKey, method, body, clockBehind } = requestFrom(settings);
  let payment = null;
  const watched = (input, init) => {
    const request = new Request(input, init);
    payment = request.headers.get("x-payment") ?? payment;
    return fetch(request);
  };
  const pay = wrapFetchWithPayment(watched, await createSigner("base-sepolia", privateKey));
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  const response = await withClockBehind(clockBehind, () => pay(url, { method, headers, body }));
  const outcome = response.headers.get("x-payment-response");
  const content = jsonOrText(await response.text());
  return {
    status: response.status,
    body: content,
    outcome: outcome ? decodeXPaymentResponse(outcome) : null,
    error: content.error ?? null,
    payment,
  };
});
