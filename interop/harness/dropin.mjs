// A server of an official SDK, moved to our facilitator by its URL: what it asks for, what it does where it is not let in or not
// served, and what becomes of a payment whose outcome is not known in time.
import { decodePaymentRequiredHeader, decodePaymentResponseHeader } from "@x402/core/http";
import { books, checkReplay, checkUnmoved, lower, present, same } from "./books.mjs";
import { versionOf } from "./cases.mjs";
import { NETWORK_V1, NETWORK_V2, TOKEN } from "./chain.mjs";
import { PRICE_ATOMIC, UNSERVED_NETWORK } from "./stack.mjs";

const POLL_MS = 25;
const PENDING = "settlement_pending";
const CHECKS = {
  asked: checkAsked,
  "turned-away": checkTurnedAway,
  "not-served": checkNotServed,
  pending: checkPending,
  "pending-again": checkPending,
};

/** Whether a case is one of those here. */
export function isDropIn({ ends }) {
  return ends in CHECKS;
}

/** Runs such a case on a stack. */
export async function checkDropIn(stack, one) {
  await CHECKS[one.ends](stack, one);
}

/** Without a payment: 402 in the form of the version, with the terms as they were configured. */
async function checkAsked(stack, one) {
  const url = await stack.urlOf(one);
  const response = await fetch(url);
  const text = await response.text();
  same("status", response.status, 402);
  if (text.includes('"ok":true')) throw new Error(`content without a payment: ${text}`);
  const v1 = versionOf(one) === "v1";
  const asked = v1 ? JSON.parse(text) : decodePaymentRequiredHeader(response.headers.get("payment-required") ?? "");
  same("x402Version", asked.x402Version, v1 ? 1 : 2);
  same("offers", asked.accepts.length, 1);
  const [offer] = asked.accepts;
  same("scheme", offer.scheme, "exact");
  same("network", offer.network, v1 ? NETWORK_V1 : NETWORK_V2);
  same("amount", v1 ? offer.maxAmountRequired : offer.amount, String(PRICE_ATOMIC));
  same("asset", lower(offer.asset), lower(TOKEN));
  same("payTo", lower(offer.payTo), lower(stack.payee));
  same("extra", offer.extra, { name: "USDC", version: "2" });
  // Next calls itself localhost, by whatever address it is asked.
  const named = new URL(v1 ? offer.resource : asked.resource.url);
  same("port and path of the resource", named.port + named.pathname, new URL(url).port + new URL(url).pathname);
}

/** The facilitator does not know the server's key: nobody is served, nothing moves, and no key is told. */
async function checkTurnedAway(stack, one) {
  const url = await stack.urlOf(one);
  const payer = await stack.payerOf(one);
  const before = await books(stack, payer);
  const { payment } = await stack.buy(one, url, payer);
  const { status, headers, text } = await present(url, payment);
  if (status !== 402) throw new Error(`status ${status}: ${text}`);
  if (text.includes('"ok":true')) throw new Error(`content without a settlement: ${text}`);
  const told = [text, ...[...headers.values()].flatMap((value) => [value, Buffer.from(value, "base64").toString()])];
  if (stack.keys.some((key) => told.join().includes(key))) throw new Error("a key is told to the payer");
  checkUnmoved(before, await books(stack, payer), await stack.chain.transfersAfter(before.height, payer.address));
}

/** The facilitator says in `/supported` what it serves: a server that asks for more does not start, and says what is missing. */
async function checkNotServed(stack, one) {
  const { code, said } = await stack.startUnserved(one);
  if (code === null) throw new Error(`the server started:\n${said}`);
  if (code === 0) throw new Error(`the server ended as if all were well:\n${said}`);
  if (!said.includes(UNSERVED_NETWORK)) throw new Error(`the server does not say what is missing:\n${said}`);
}

/**
 * The chain is slower than the settle call waits. SDKs of v2 ask once more at once: a block that comes meanwhile makes that a
 * success. When none comes, and with SDKs of v1 always, the payer is refused by `settlement_pending`; its same payment gets
 * it the goods later, once.
 */
async function checkPending(stack, one) {
  const url = await stack.urlOf(one);
  const payer = await stack.payerOf(one);
  const before = await books(stack, payer);
  const answered = await stack.settleAnswers(one);
  const asksAgain = versionOf(one) === "v2";
  const buying = stack.buy(one, url, payer);
  let payment;
  let delivered;
  if (asksAgain && one.ends === "pending") {
    await Promise.race([untilAnswered(stack, one, answered.pending + 1), buying]);
    await stack.chain.mine();
    const answer = await buying;
    if (answer.status !== 200) throw new Error(`status ${answer.status}: ${JSON.stringify(answer.outcome ?? answer.error)}`);
    same("body.ok", answer.body?.ok, true);
    ({ payment, outcome: delivered } = answer);
  } else {
    const answer = await buying;
    checkToldPending(one, answer);
    payment = answer.payment;
    await stack.chain.mine();
    const { status, headers, text } = await present(url, payment);
    if (status !== 200) throw new Error(`the same payment again was answered with ${status}: ${text}`);
    same("body.ok", JSON.parse(text).ok, true);
    delivered = decodePaymentResponseHeader(headers.get("payment-response") ?? headers.get("x-payment-response") ?? "");
    if (answer.outcome) same("hash that was told while pending", lower(answer.outcome.transaction), lower(delivered.transaction));
  }
  await checkPaidOnce(stack, one, payer, before, delivered);
  await checkReplay(stack, url, payer, payment);
  const now = await stack.settleAnswers(one);
  same("answers `pending`", now.pending - answered.pending, asksAgain && one.ends === "pending-again" ? 2 : 1);
  same("answers `settled`", now.settled - answered.settled, 1);
}

/** What a payer is told while nobody knows. */
function checkToldPending(one, { status, body, outcome, error }) {
  same("status", status, 402);
  if (body?.ok !== undefined) throw new Error(`content without a settlement: ${JSON.stringify(body)}`);
  if (versionOf(one) === "v1") {
    same("error", error, PENDING);
    return;
  }
  same("outcome.success", outcome?.success, false);
  same("outcome.errorReason", outcome.errorReason, PENDING);
  if (!/^0x[0-9a-f]{64}$/.test(outcome.transaction)) throw new Error(`no hash: ${JSON.stringify(outcome)}`);
}

async function checkPaidOnce(stack, one, payer, before, outcome) {
  const after = await books(stack, payer);
  same("tokens that left the payer", before.payerTokens - after.payerTokens, PRICE_ATOMIC);
  same("tokens that reached the payee", after.payeeTokens - before.payeeTokens, PRICE_ATOMIC);
  const transfers = await stack.chain.transfersAfter(before.height, payer.address);
  same("transfers of the payer", transfers.length, 1);
  same("sender of the settlement", lower(transfers[0].sender), lower(stack.signerOf(one.facilitator)));
  same("outcome.success", outcome?.success, true);
  same("outcome.transaction", lower(outcome.transaction), lower(transfers[0].transaction));
}

/** Waits until the facilitator has answered `pending` so often. Ends with the case's own time. */
async function untilAnswered(stack, one, pending) {
  while ((await stack.settleAnswers(one)).pending < pending) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
}
