// The official TypeScript facilitator behind an HTTP front: schemes `exact` (v2 and v1) and `upto`, one chain.
import express from "express";
import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { ExactEvmScheme } from "@x402/evm/exact/facilitator";
import { ExactEvmSchemeV1 } from "@x402/evm/exact/v1/facilitator";
import { UptoEvmScheme } from "@x402/evm/upto/facilitator";
import { EIP2612_GAS_SPONSORING, createErc20ApprovalGasSponsoringExtension } from "@x402/extensions";
import { createWalletClient, http, parseTransaction, publicActions, recoverTransactionAddress } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";
import { report, required } from "../environment.mjs";

// viem asks for a receipt once a second on this chain if nobody tells it otherwise; local chains mine at once.
const RECEIPT_POLL_MS = 50;

const port = Number(required("PORT"));
const account = privateKeyToAccount(required("EVM_PRIVATE_KEY"));
const wallet = createWalletClient({
  account,
  chain: baseSepolia,
  transport: http(required("EVM_RPC_URL")),
  pollingInterval: RECEIPT_POLL_MS,
  cacheTime: 0,
}).extend(publicActions);

const signer = toFacilitatorEvmSigner({
  address: account.address,
  getCode: (call) => wallet.getCode(call),
  readContract: (call) => wallet.readContract({ ...call, args: call.args ?? [] }),
  verifyTypedData: (call) => wallet.verifyTypedData(call),
  writeContract: (call) => wallet.writeContract({ ...call, args: call.args ?? [] }),
  sendTransaction: (call) => wallet.sendTransaction(call),
  waitForTransactionReceipt: (call) => wallet.waitForTransactionReceipt(call),
});
const facilitator = new x402Facilitator()
  .register("eip155:84532", new ExactEvmScheme(signer, { eip6492AllowedFactories: required("FACTORIES").split(",") }))
  .register("eip155:84532", new UptoEvmScheme(signer))
  .registerV1("base-sepolia", new ExactEvmSchemeV1(signer))
  .registerExtension(EIP2612_GAS_SPONSORING)
  .registerExtension(createErc20ApprovalGasSponsoringExtension({ ...signer, sendTransactions }));

/** A payer's approval and what needs it, each mined before the next. The SDK leaves that to whoever runs it. */
async function sendTransactions(transactions) {
  const hashes = [];
  for (const transaction of transactions) {
    if (typeof transaction === "string") await giveGasFor(transaction);
    const sent = typeof transaction === "string" ? wallet.sendRawTransaction({ serializedTransaction: transaction }) : wallet.sendTransaction(transaction);
    hashes.push(await sent);
    await wallet.waitForTransactionReceipt({ hash: hashes.at(-1) });
  }
  return hashes;
}

/** Gives the sender of a signed transaction the wei that it lacks. */
async function giveGasFor(serializedTransaction) {
  const { gas, maxFeePerGas } = parseTransaction(serializedTransaction);
  const to = await recoverTransactionAddress({ serializedTransaction });
  const value = gas * maxFeePerGas - (await wallet.getBalance({ address: to }));
  if (value > 0n) await wallet.waitForTransactionReceipt({ hash: await wallet.sendTransaction({ to, value }) });
}

/** Answers a POST of `{paymentPayload, paymentRequirements}` with what the SDK says. */
function answerWith(operation) {
  return async (request, response) => {
    const { paymentPayload, paymentRequirements } = request.body ?? {};
    if (!paymentPayload || !paymentRequirements) {
      response.status(400).json({ error: "paymentPayload and paymentRequirements are required" });
      return;
    }
    try {
      const result = await operation(paymentPayload, paymentRequirements);
      console.error(request.path, JSON.stringify(result));
      response.json(result);
    } catch (error) {
      console.error(request.path, error);
      response.status(500).json({ error: String(error?.message ?? error) });
    }
  };
}

const app = express();
app.use(express.json());
app.get("/supported", (_request, response) => response.json(facilitator.getSupported()));
app.post("/verify", answerWith((payload, requirements) => facilitator.verify(payload, requirements)));
app.post("/settle", answerWith((payload, requirements) => facilitator.settle(payload, requirements)));
app.listen(port, "127.0.0.1", () => report({ ready: true, url: `http://127.0.0.1:${port}` }));
