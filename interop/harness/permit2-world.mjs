// One anvil with one implementation of Permit2 on it, and everything around that is the same for all of them: tokens,
// wallets, proxies, clocks. Knows how to send a call and to write down all that came of it.
import { encodeAbiParameters, encodeFunctionData, numberToHex, parseAbi } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { CHAIN_ID, Chain, PERMIT2, artifact, developmentAccount } from "./chain.mjs";
import { freePort } from "./processes.mjs";
import { anvilBinary } from "./stack.mjs";

/** The first second of every world. */
const GENESIS_TIME = 2_000_000_000n;
const GAS_LIMIT = numberToHex(3_000_000n);
const FUNDS = 1_000_000n;
const TOKENS = ["PlainToken", "FeeToken", "ReturnsFalseToken", "ReturnBombToken", "ReentrantToken", "PausableToken"];
/** Contracts that do one thing, whatever they are asked. */
const ODD_CONTRACTS = {
  answersNothing: "0x00",
  answersZero: "0x60205ff3",
  answersOne: "0x60015f5260205ff3",
  answersTwo: "0x60025f5260205ff3",
  answersAllBits: "0x5f195f5260205ff3",
  answersOneByte: "0x60015f5360015ff3",
  revertsWithFourZeros: "0x60045ffd",
};

export const TOKEN_ABI = parseAbi([
  "function mint(address to, uint256 amount)",
  "function approve(address spender, uint256 value) returns (bool)",
  "function transfer(address to, uint256 value) returns (bool)",
  "function setRefusing(bool value)",
  "function setPaused(bool value)",
  "function setAnswerBytes(uint256 length)",
  "function setCallback(address newTarget, bytes newData)",
]);
const WALLET_ABI = parseAbi(["function execute(address target, uint256 value, bytes data) payable returns (bytes)"]);

/** Starts a chain on which `runtime` stands at Permit2's address. The same calls on another world come out the same. */
export async function startWorld({ group, name, folder, runtime }) {
  const port = await freePort();
  const chain = new Chain(`http://127.0.0.1:${port}`);
  const args = ["--port", String(port), "--host", "127.0.0.1", "--chain-id", String(CHAIN_ID), "--timestamp", String(GENESIS_TIME), "--no-mining", "--silent"];
  await group.start({ name, command: anvilBinary(), args, cwd: folder }, () => chain.isUp());
  await chain.call("anvil_setCode", PERMIT2, runtime);
  await chain.placeProxies();
  const world = new World(chain);
  await world.furnish();
  return world;
}

/** What cases are told, and what they do things with. */
class World {
  #chain;
  #now = GENESIS_TIME;
  #nonces = 1000n;

  /** Development accounts with an address and a key that signs. */
  spender = signer(0);
  payer = signer(1);
  stranger = signer(2);
  /** An account with a key and a delegation (EIP-7702) to a wallet that asks the account's own key. */
  delegated = signer(3);
  payee = "0xEeeeeEeeeEeEeeEeEeEeeEEEeeeeEeeeeeeeEEeE";
  second = "0x00000000000000000000000000000000000000E2";
  nowhere = "0x000000000000000000000000000000000000c0de";
  tokens = {};
  wallet = null;
  odd = {};

  constructor(chain) {
    this.#chain = chain;
  }

  /** The time of the next block, in seconds. */
  get time() {
    return this.#now + 10n;
  }

  /** The token that most cases move. */
  get token() {
    return this.tokens.PlainToken;
  }

  /** A nonce of Permit2 that no case has had. */
  freshNonce() {
    return this.#nonces++;
  }

  async furnish() {
    for (const name of TOKENS) this.tokens[name] = await this.#deploy(artifact(`zoo/${name}`).creationCode);
    const owner = encodeAbiParameters([{ type: "address" }], [this.payer.address]);
    this.wallet = await this.#deploy(artifact("Wallet1271").creationCode + owner.slice(2));
    const self = encodeAbiParameters([{ type: "address" }], ["0x0000000000000000000000000000000000000000"]);
    const target = await this.#deploy(artifact("Wallet1271").creationCode + self.slice(2));
    await this.#chain.call("anvil_setCode", this.delegated.address, `0xef0100${target.slice(2)}`);
    for (const [index, [name, code]] of Object.entries(ODD_CONTRACTS).entries()) {
      this.odd[name] = numberToHex(0xadd0n + BigInt(index), { size: 20 });
      await this.#chain.call("anvil_setCode", this.odd[name], code);
    }
    const approve = call(TOKEN_ABI, "approve", [PERMIT2, 2n ** 256n - 1n]);
    for (const token of Object.values(this.tokens)) {
      for (const holder of [this.payer.address, this.delegated.address, this.wallet]) {
        await this.#mustSend(this.stranger, token, call(TOKEN_ABI, "mint", [holder, FUNDS]));
      }
      await this.#mustSend(this.payer, token, approve);
      await this.#mustSend(this.delegated, token, approve);
      await this.#mustSend(this.payer, this.wallet, call(WALLET_ABI, "execute", [token, 0n, approve]));
    }
  }

  /** Sends a call in a block of its own and returns all that came of it. */
  async send({ from = this.spender, to, data, value = 0n }) {
    this.#now = this.time;
    await this.#chain.call("evm_setNextBlockTimestamp", numberToHex(this.#now));
    const transaction = { from: from.address, to, data, value: numberToHex(value), gas: GAS_LIMIT };
    const hash = await this.#chain.call("eth_sendTransaction", transaction);
    await this.#chain.call("evm_mine");
    const receipt = await this.#chain.call("eth_getTransactionReceipt", hash);
    const trace = await this.#chain.call("debug_traceTransaction", hash, { tracer: "callTracer" });
    const diff = await this.#chain.call("debug_traceTransaction", hash, { tracer: "prestateTracer", tracerConfig: { diffMode: true } });
    const logs = receipt.logs.map(({ address, topics, data }) => ({ address, topics, data }));
    const storage = { before: storageIn(diff.pre), after: storageIn(diff.post) };
    return { succeeded: receipt.status === "0x1", output: trace.output ?? "0x", logs, storage, created: receipt.contractAddress };
  }

  /** What a call answers at the head: `{returned}` or `{reverted}`. */
  async ask({ from = this.spender, to, data }) {
    return this.#chain.tryCall({ from: from.address, to, data, gas: GAS_LIMIT });
  }

  async #deploy(data) {
    const { succeeded, created } = await this.send({ data });
    if (!succeeded) throw new Error("a contract of the world was not deployed");
    return created;
  }

  async #mustSend(from, to, data) {
    const { succeeded, output } = await this.send({ from, to, data });
    if (!succeeded) throw new Error(`the world could not be furnished: ${output}`);
  }
}

/** The call data of a function. */
export function call(abi, functionName, args) {
  return encodeFunctionData({ abi, functionName, args });
}

/** The words of every account's storage that a transaction changed. Money for gas and counts of transactions are left out. */
function storageIn(accounts) {
  return Object.fromEntries(Object.entries(accounts).flatMap(([address, { storage }]) => (storage ? [[address, storage]] : [])));
}

function signer(index) {
  return privateKeyToAccount(developmentAccount(index).privateKey);
}
