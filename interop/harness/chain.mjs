// The chain under a run, seen only through JSON-RPC, and the accounts on it.
// The oracle of every case lives here: what it reads are balances, transactions and logs, not anyone's answer.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { encodeAbiParameters, encodeEventTopics, keccak256, numberToHex, pad, parseAbi, toHex } from "viem";
import { generatePrivateKey, mnemonicToAccount, privateKeyToAccount } from "viem/accounts";

export const CHAIN_ID = 84532;
export const NETWORK_V2 = "eip155:84532";
export const NETWORK_V1 = "base-sepolia";
/** Base Sepolia's USDC address, where our token stands on both chains. */
export const TOKEN = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
/** The canonical addresses of Permit2 and of the x402 proxies over it. */
export const PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3";
export const EXACT_PROXY = "0x402085c248EeA27D92E8b30b2C58ed07f9E20001";
export const UPTO_PROXY = "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002";

// The mnemonic that every development chain funds. Public: never put value behind it.
const DEVELOPMENT_MNEMONIC = "test test test test test test test test test test test junk";
const MULTICALL3 = "0xcA11bde05977b3631167028862bE2a173976CA11";
const GENUINE_PERMIT2 = fileURLToPath(new URL("../genuine/node_modules/@1inch/solidity-utils/dist/src/permit2.json", import.meta.url));
const ARTIFACTS = fileURLToPath(new URL("../../contracts/artifacts/", import.meta.url));
const TOTAL_SUPPLY_SLOT = numberToHex(1n, { size: 32 });
const BALANCES_SLOT = 2n;
const PAYER_FUNDS = 1_000_000_000n;
const GIFT_WEI = 10n ** 18n;
/** The JSON-RPC error code of a call that reverts. */
const REVERTED = 3;
const RPC_TIMEOUT_MS = 10_000;
const ERC20 = parseAbi(["event Transfer(address indexed from, address indexed to, uint256 value)"]);
const BALANCE_OF_SELECTOR = "0x70a08231";

/** A development account by its index in the public mnemonic: `{address, privateKey, index}`. The chains furnish the first ten. */
export function developmentAccount(index) {
  const account = mnemonicToAccount(DEVELOPMENT_MNEMONIC, { addressIndex: index });
  return { address: account.address, privateKey: toHex(account.getHdKey().privateKey), index };
}

/** A new account that no chain has heard of. */
export function strangerAccount() {
  const privateKey = generatePrivateKey();
  return { address: privateKeyToAccount(privateKey).address, privateKey };
}

/** A compiled contract of ours. */
export function artifact(name) {
  return JSON.parse(readFileSync(`${ARTIFACTS}${name}.json`, "utf8"));
}

/** The code that stands at Permit2's address on public chains. */
export function genuinePermit2() {
  return JSON.parse(readFileSync(GENUINE_PERMIT2, "utf8")).bytecode;
}

/** JSON-RPC reads, and on anvil the writes that make its genesis. */
export class Chain {
  #url;
  #nextId = 1;

  constructor(url) {
    this.#url = url;
  }

  get url() {
    return this.#url;
  }

  async call(method, ...params) {
    const answer = await this.#post(method, params);
    if (answer.error) throw new Error(`${method}: ${JSON.stringify(answer.error)}`);
    return answer.result;
  }

  /** What a contract answers at the head: `{returned}`, or `{reverted}` with the data it reverts with. */
  async tryCall(transaction) {
    const { result, error } = await this.#post("eth_call", [transaction, "latest"]);
    if (error === undefined) return { returned: result };
    if (error.code !== REVERTED) throw new Error(`eth_call: ${JSON.stringify(error)}`);
    return { reverted: error.data ?? "0x" };
  }

  /** Whether the right chain answers. */
  async isUp() {
    return BigInt(await this.call("eth_chainId")) === BigInt(CHAIN_ID);
  }

  /** Puts the contracts of our genesis on an empty anvil, Permit2 as it is on public chains, and tokens into `holders`. */
  async placeContracts(holders) {
    await this.call("anvil_setCode", TOKEN, artifact("Usdc").runtimeCode);
    await this.call("anvil_setCode", MULTICALL3, artifact("Multicall3").runtimeCode);
    await this.call("anvil_setCode", PERMIT2, genuinePermit2());
    await this.placeProxies();
    const word = (value) => numberToHex(value, { size: 32 });
    for (const holder of holders) {
      const key = encodeAbiParameters([{ type: "address" }, { type: "uint256" }], [holder, BALANCES_SLOT]);
      await this.call("anvil_setStorageAt", TOKEN, keccak256(key), word(PAYER_FUNDS));
    }
    await this.call("anvil_setStorageAt", TOKEN, TOTAL_SUPPLY_SLOT, word(PAYER_FUNDS * BigInt(holders.length)));
  }

  /** Puts the x402 proxies on an anvil. */
  async placeProxies() {
    await this.call("anvil_setCode", EXACT_PROXY, artifact("X402ExactPermit2Proxy").runtimeCode);
    await this.call("anvil_setCode", UPTO_PROXY, artifact("X402UptoPermit2Proxy").runtimeCode);
  }

  /** Gives an account what gas costs here for years. */
  async giveWei(address) {
    await this.call("anvil_setBalance", address, numberToHex(GIFT_WEI));
  }

  /** Makes a block. */
  async mine() {
    await this.call("evm_mine");
  }

  async tokensOf(address) {
    const data = BALANCE_OF_SELECTOR + pad(address, { size: 32 }).slice(2);
    return BigInt(await this.call("eth_call", { to: TOKEN, data }, "latest"));
  }

  async weiOf(address) {
    return BigInt(await this.call("eth_getBalance", address, "latest"));
  }

  async hasCode(address) {
    return (await this.call("eth_getCode", address, "latest")) !== "0x";
  }

  /** How many transactions the account has sent; of a contract, how many it has made, itself included. */
  async sentBy(address) {
    return BigInt(await this.call("eth_getTransactionCount", address, "latest"));
  }

  /** What transactions after block `height` did to the wei of `account`: `{received, spent, sent}`, `sent` being where its own went. */
  async dealingsAfter(height, account) {
    const is = (address) => address?.toLowerCase() === account.toLowerCase();
    const dealings = { received: 0n, spent: 0n, sent: [] };
    for (let number = height + 1n; number <= (await this.height()); number += 1n) {
      const { transactions } = await this.call("eth_getBlockByNumber", numberToHex(number), true);
      for (const { hash, from, to, value } of transactions) {
        if (is(to)) dealings.received += BigInt(value);
        if (!is(from)) continue;
        const { gasUsed, effectiveGasPrice } = await this.call("eth_getTransactionReceipt", hash);
        dealings.spent += BigInt(value) + BigInt(gasUsed) * BigInt(effectiveGasPrice);
        dealings.sent.push(to.toLowerCase());
      }
    }
    return dealings;
  }

  async height() {
    return BigInt(await this.call("eth_blockNumber"));
  }

  /** Every token transfer out of `from` after block `height`: `[{to, value, transaction, sender}]`. */
  async transfersAfter(height, from) {
    const topics = encodeEventTopics({ abi: ERC20, eventName: "Transfer", args: { from } });
    const range = { fromBlock: numberToHex(height + 1n), toBlock: "latest" };
    if ((await this.height()) <= height) return [];
    const logs = await this.call("eth_getLogs", { address: TOKEN, topics: topics.slice(0, 2), ...range });
    return Promise.all(
      logs.map(async (log) => {
        const transaction = await this.call("eth_getTransactionByHash", log.transactionHash);
        const to = `0x${log.topics[2].slice(-40)}`;
        return { to, value: BigInt(log.data), transaction: log.transactionHash, sender: transaction.from };
      }),
    );
  }

  async #post(method, params) {
    const response = await fetch(this.#url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ jsonrpc: "2.0", id: this.#nextId++, method, params }),
      signal: AbortSignal.timeout(RPC_TIMEOUT_MS),
    });
    return response.json();
  }
}
