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

// The mnemonic that every development chain funds. Public: never put value behind it.
const DEVELOPMENT_MNEMONIC = "test test test test test test test test test test test junk";
const MULTICALL3 = "0xcA11bde05977b3631167028862bE2a173976CA11";
const ARTIFACTS = fileURLToPath(new URL("../../contracts/artifacts/", import.meta.url));
const TOTAL_SUPPLY_SLOT = numberToHex(1n, { size: 32 });
const BALANCES_SLOT = 2n;
const PAYER_FUNDS = 1_000_000_000n;
const RPC_TIMEOUT_MS = 10_000;
const ERC20 = parseAbi(["event Transfer(address indexed from, address indexed to, uint256 value)"]);
const BALANCE_OF_SELECTOR = "0x70a08231";

/** A development account by its index in the public mnemonic: `{address, privateKey}`. */
export function developmentAccount(index) {
  const account = mnemonicToAccount(DEVELOPMENT_MNEMONIC, { addressIndex: index });
  return { address: account.address, privateKey: toHex(account.getHdKey().privateKey) };
}

/** A new account that no chain has heard of. */
export function strangerAccount() {
  const privateKey = generatePrivateKey();
  return { address: privateKeyToAccount(privateKey).address, privateKey };
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
    const response = await fetch(this.#url, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ jsonrpc: "2.0", id: this.#nextId++, method, params }),
      signal: AbortSignal.timeout(RPC_TIMEOUT_MS),
    });
    const answer = await response.json();
    if (answer.error) throw new Error(`${method}: ${JSON.stringify(answer.error)}`);
    return answer.result;
  }

  /** Whether the right chain answers. */
  async isUp() {
    return BigInt(await this.call("eth_chainId")) === BigInt(CHAIN_ID);
  }

  /** Puts our token and Multicall3 on an empty anvil, and tokens into `holders`. */
  async placeContracts(holders) {
    const runtime = (name) => JSON.parse(readFileSync(`${ARTIFACTS}${name}.json`, "utf8")).runtimeCode;
    await this.call("anvil_setCode", TOKEN, runtime("Usdc"));
    await this.call("anvil_setCode", MULTICALL3, runtime("Multicall3"));
    const word = (value) => numberToHex(value, { size: 32 });
    for (const holder of holders) {
      const key = encodeAbiParameters([{ type: "address" }, { type: "uint256" }], [holder, BALANCES_SLOT]);
      await this.call("anvil_setStorageAt", TOKEN, keccak256(key), word(PAYER_FUNDS));
    }
    await this.call("anvil_setStorageAt", TOKEN, TOTAL_SUPPLY_SLOT, word(PAYER_FUNDS * BigInt(holders.length)));
  }

  async tokensOf(address) {
    const data = BALANCE_OF_SELECTOR + pad(address, { size: 32 }).slice(2);
    return BigInt(await this.call("eth_call", { to: TOKEN, data }, "latest"));
  }

  async weiOf(address) {
    return BigInt(await this.call("eth_getBalance", address, "latest"));
  }

  /** How many transactions the account has sent. */
  async sentBy(address) {
    return BigInt(await this.call("eth_getTransactionCount", address, "latest"));
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
}
