// What a case compares: the books of payer and payee as the chain has them, and one value with another.
import { isDeepStrictEqual } from "node:util";

/** The tokens of payer and payee, and what the payer's account did, at the chain's present height. */
export async function books({ chain, payee }, payer) {
  const [payerTokens, payeeTokens, payerWei, payerSent, height] = await Promise.all([
    chain.tokensOf(payer.address),
    chain.tokensOf(payee),
    chain.weiOf(payer.address),
    chain.sentBy(payer.address),
    chain.height(),
  ]);
  return { payerTokens, payeeTokens, payerWei, payerSent, height };
}

/** Nothing moved between two looks. */
export function checkUnmoved(before, after, transfers) {
  same("tokens of the payer", after.payerTokens, before.payerTokens);
  same("tokens of the payee", after.payeeTokens, before.payeeTokens);
  same("transfers of the payer", transfers.length, 0);
}

/** Presents a payment that was collected once more: that buys nothing and moves nothing. */
export async function checkReplay(stack, url, payer, payment) {
  const before = await books(stack, payer);
  const { status, text } = await present(url, payment);
  const after = await books(stack, payer);
  if (![402, 409].includes(status)) throw new Error(`a replay was answered with ${status}: ${text}`);
  if (text.includes('"ok":true')) throw new Error(`a replay got content: ${text}`);
  checkUnmoved(before, after, await stack.chain.transfersAfter(before.height, payer.address));
}

/** Presents a payment from outside, by the header of either version: `{status, headers, text}`. */
export async function present(url, payment) {
  if (typeof payment !== "string") throw new Error("the client does not say by which header it paid");
  const { x402Version } = JSON.parse(Buffer.from(payment, "base64").toString());
  const name = x402Version === 1 ? "x-payment" : "payment-signature";
  const response = await fetch(url, { headers: { [name]: payment } });
  return { status: response.status, headers: response.headers, text: await response.text() };
}

/** Throws unless both are the same. */
export function same(what, found, wanted) {
  if (!isDeepStrictEqual(found, wanted)) throw new Error(`${what}: ${show(found)} instead of ${show(wanted)}`);
}

/** Text without its capitals. */
export function lower(text) {
  return String(text).toLowerCase();
}

function show(value) {
  return typeof value === "bigint" ? String(value) : JSON.stringify(value);
}
