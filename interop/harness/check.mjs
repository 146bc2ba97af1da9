// One case: buy, then ask the chain what really happened. Throws an Error that says what was wrong.
import { isDeepStrictEqual } from "node:util";
import { versionOf } from "./cases.mjs";
import { NETWORK_V1, NETWORK_V2, TOKEN } from "./chain.mjs";
import { POST_BODY, PRICE_ATOMIC } from "./stack.mjs";

/** What `pay402 pay` ends with when the payer has not enough. */
const EXIT_INSUFFICIENT_FUNDS = 6;

/** Runs a case on a stack. */
export async function check(stack, one) {
  const baseUrl = await stack.serverUrl(one.server, one.facilitator);
  const payer = stack.payerOf(one);
  const before = await books(stack, payer);
  const answer = await stack.buy(one, baseUrl, payer);
  const after = await books(stack, payer);
  const transfers = await stack.chain.transfersAfter(before.height, payer.address);

  same("wei of the payer", after.payerWei, before.payerWei);
  same("transactions sent by the payer", after.payerSent, before.payerSent);
  if (one.payer === "unfunded") checkRefused(one, answer, before, after, transfers);
  else checkPaid(stack, one, { payer, answer, before, after, transfers });
}

async function books({ chain, payee }, payer) {
  const [payerTokens, payeeTokens, payerWei, payerSent, height] = await Promise.all([
    chain.tokensOf(payer.address),
    chain.tokensOf(payee),
    chain.weiOf(payer.address),
    chain.sentBy(payer.address),
    chain.height(),
  ]);
  return { payerTokens, payeeTokens, payerWei, payerSent, height };
}

function checkPaid(stack, one, { payer, answer, before, after, transfers }) {
  if (answer.refusal) throw new Error(`our client refused: ${JSON.stringify(answer.refusal)}`);
  same("status", answer.status, 200);
  same("body.ok", answer.body?.ok, true);
  if (one.method === "POST") same("body.received", answer.body.received, JSON.parse(POST_BODY));
  same("tokens that left the payer", before.payerTokens - after.payerTokens, PRICE_ATOMIC);
  same("tokens that reached the payee", after.payeeTokens - before.payeeTokens, PRICE_ATOMIC);
  same("transfers of the payer", transfers.length, 1);
  const [transfer] = transfers;
  same("recipient of the transfer", lower(transfer.to), lower(stack.payee));
  same("value of the transfer", transfer.value, PRICE_ATOMIC);
  same("sender of the settlement", lower(transfer.sender), lower(stack.signerOf(one.facilitator)));
  checkOutcome(one, answer.outcome, transfer, payer);
  if (one.client === "pay402-client") checkReceipt(stack, answer.receipt, transfer, payer);
}

/** What the server told the client about the settlement is what the chain says. */
function checkOutcome(one, outcome, transfer, payer) {
  same("outcome.success", outcome?.success, true);
  same("outcome.transaction", lower(outcome.transaction), lower(transfer.transaction));
  same("outcome.network", outcome.network, versionOf(one) === "v1" ? NETWORK_V1 : NETWORK_V2);
  same("outcome.payer", lower(outcome.payer), lower(payer.address));
}

/** What our client tells its owner is what the chain says. */
function checkReceipt(stack, receipt, transfer, payer) {
  same("receipt.status", receipt?.status, "settled");
  same("receipt.transaction", lower(receipt.transaction), lower(transfer.transaction));
  same("receipt.terms.amount", receipt.terms.amount, String(PRICE_ATOMIC));
  same("receipt.terms.network", receipt.terms.network, NETWORK_V2);
  same("receipt.terms.asset", lower(receipt.terms.asset), lower(TOKEN));
  same("receipt.terms.pay_to", lower(receipt.terms.pay_to), lower(stack.payee));
  same("receipt.terms.payer", lower(receipt.terms.payer), lower(payer.address));
}

function checkRefused(one, answer, before, after, transfers) {
  if (one.client === "pay402-client") {
    same("code of the refusal", answer.refusal?.code, "insufficient_funds");
    same("exit code", answer.refusal.exitCode, EXIT_INSUFFICIENT_FUNDS);
    same("standard output", answer.refusal.printed, "");
  } else {
    same("status", answer.status, 402);
    if (answer.body?.ok !== undefined) throw new Error(`a refused payment got content: ${JSON.stringify(answer.body)}`);
    // The SDKs have several names for it, all with this word.
    if (!/insufficient/.test(answer.error)) throw new Error(`the refusal does not say why: ${JSON.stringify(answer)}`);
  }
  same("tokens of the payer", after.payerTokens, before.payerTokens);
  same("tokens of the payee", after.payeeTokens, before.payeeTokens);
  same("transfers of the payer", transfers.length, 0);
}

function same(what, found, wanted) {
  if (!isDeepStrictEqual(found, wanted)) throw new Error(`${what}: ${show(found)} instead of ${show(wanted)}`);
}

function show(value) {
  return typeof value === "bigint" ? String(value) : JSON.stringify(value);
}

function lower(text) {
  return String(text).toLowerCase();
}
