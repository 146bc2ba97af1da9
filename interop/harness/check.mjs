// One case: buy, then ask the chain what really happened. Throws an Error that says what was wrong.
import { books, checkReplay, checkUnmoved, lower, same } from "./books.mjs";
import { hasCeiling, versionOf } from "./cases.mjs";
import { checkDropIn, isDropIn } from "./dropin.mjs";
import { NETWORK_V1, NETWORK_V2, TOKEN } from "./chain.mjs";
import { CEILING_ATOMIC, POST_BODY, PRICE_ATOMIC, UNIT_ATOMIC } from "./stack.mjs";

/** How `pay402 pay` says that a payment was refused: code and exit code. */
const OUR_REFUSALS = { insufficient: ["insufficient_funds", 6], "no-allowance": ["allowance_required", 5] };
/** What a refusal has in it. The SDKs have several names for most. */
const REASONS = {
  insufficient: /insufficient/,
  "no-allowance": /^permit2_allowance_required/,
  "unknown-factory": /^eip6492_factory_not_allowed/,
  expired: /^invalid_exact_evm_payload_authorization_valid_before/,
};

/** Runs a case on a stack. */
export async function check(stack, one) {
  if (isDropIn(one)) return checkDropIn(stack, one);
  const url = await stack.urlOf(one);
  const payer = await stack.payerOf(one);
  const before = await books(stack, payer);
  const answer = await stack.buy(one, url, payer);
  const after = await books(stack, payer);
  const transfers = await stack.chain.transfersAfter(before.height, payer.address);

  if (one.ends in REASONS) checkRefused(one, answer);
  else checkDelivered(one, answer);
  await checkDealings(stack, one, payer, before, after);
  if (payer.deploys) same("whether the payer is deployed", await stack.chain.hasCode(payer.address), deploys(one, payer));
  if (one.ends in REASONS) checkUnmoved(before, after, transfers);
  else checkPaid(stack, one, { payer, answer, before, after, transfers });
  if (one.ends === "replayed") await checkReplay(stack, url, payer, answer.payment);
}

/** What the payer's account did itself: nothing, but for an approval that somebody else paid for. */
async function checkDealings({ chain }, one, payer, before, after) {
  const { received, spent, sent } = await chain.dealingsAfter(before.height, payer.address);
  same("where the payer's transactions went", sent, needsApproval(one) ? [lower(TOKEN)] : []);
  if (!needsApproval(one)) same("wei of the payer", after.payerWei, before.payerWei);
  same("wei of the payer, held against its dealings", after.payerWei, before.payerWei + received - spent);
  // A contract's own deployment counts as its first.
  const counted = needsApproval(one) || deploys(one, payer) ? 1n : 0n;
  same("transactions sent by the payer", after.payerSent, before.payerSent + counted);
}

/** What a case costs, in atomic units. */
function costOf({ goods, units }) {
  if (!hasCeiling(goods)) return PRICE_ATOMIC;
  return units === undefined ? CEILING_ATOMIC : UNIT_ATOMIC * BigInt(units);
}

function needsApproval({ goods, ends }) {
  return goods.endsWith("-approval") && !(ends in REASONS);
}

function deploys(one, payer) {
  return payer.deploys === true && !(one.ends in REASONS);
}

function checkDelivered(one, answer) {
  if (answer.refusal) throw new Error(`our client refused: ${JSON.stringify(answer.refusal)}`);
  if (answer.status !== 200) throw new Error(`status ${answer.status}: ${JSON.stringify(answer.error ?? answer.body)}`);
  same("body.ok", answer.body?.ok, true);
  if (one.method === "POST") same("body.received", answer.body.received, JSON.parse(POST_BODY));
}

function checkPaid(stack, one, { payer, answer, before, after, transfers }) {
  const cost = costOf(one);
  same("tokens that left the payer", before.payerTokens - after.payerTokens, cost);
  same("tokens that reached the payee", after.payeeTokens - before.payeeTokens, cost);
  same("transfers of the payer", transfers.length, cost === 0n ? 0 : 1);
  const [transfer] = transfers;
  if (transfer) {
    same("recipient of the transfer", lower(transfer.to), lower(stack.payee));
    same("value of the transfer", transfer.value, cost);
    same("sender of the settlement", lower(transfer.sender), lower(stack.signerOf(one.facilitator)));
  }
  checkOutcome(one, answer.outcome, transfer, payer);
  if (one.client === "pay402-client") checkReceipt(stack, one, answer.receipt, transfer, payer);
}

/** What the server told the client about the settlement is what the chain says. */
function checkOutcome(one, outcome, transfer, payer) {
  same("outcome.success", outcome?.success, true);
  same("outcome.transaction", lower(outcome.transaction), lower(transfer?.transaction ?? ""));
  same("outcome.network", outcome.network, versionOf(one) === "v1" ? NETWORK_V1 : NETWORK_V2);
  same("outcome.payer", lower(outcome.payer), lower(payer.address));
  if (hasCeiling(one.goods)) same("outcome.amount", outcome.amount, String(costOf(one)));
}

/** What our client tells its owner is what the chain says. */
function checkReceipt(stack, one, receipt, transfer, payer) {
  same("receipt.status", receipt?.status, "settled");
  same("receipt.transaction", lower(receipt.transaction), lower(transfer.transaction));
  same("receipt.charged", receipt.charged, String(costOf(one)));
  same("receipt.ceiling", receipt.ceiling, hasCeiling(one.goods) ? String(CEILING_ATOMIC) : null);
  same("receipt.terms.amount", receipt.terms.amount, String(hasCeiling(one.goods) ? CEILING_ATOMIC : PRICE_ATOMIC));
  same("receipt.terms.network", receipt.terms.network, NETWORK_V2);
  same("receipt.terms.asset", lower(receipt.terms.asset), lower(TOKEN));
  same("receipt.terms.pay_to", lower(receipt.terms.pay_to), lower(stack.payee));
  same("receipt.terms.payer", lower(receipt.terms.payer), lower(payer.address));
}

function checkRefused(one, answer) {
  if (one.client === "pay402-client") {
    const [code, exitCode] = OUR_REFUSALS[one.ends];
    same("code of the refusal", answer.refusal?.code, code);
    same("exit code", answer.refusal.exitCode, exitCode);
    same("standard output", answer.refusal.printed, "");
    return;
  }
  // 412: something has to happen on the chain before the same offer can be paid. The Python SDK has no such status.
  const unmet = one.ends === "no-allowance" && one.server !== "fastapi";
  same("status", answer.status, unmet ? 412 : 402);
  if (answer.body?.ok !== undefined) throw new Error(`a refused payment got content: ${JSON.stringify(answer.body)}`);
  if (!REASONS[one.ends].test(answer.error)) throw new Error(`the refusal does not say why: ${JSON.stringify({ ...answer, payment: undefined })}`);
}
