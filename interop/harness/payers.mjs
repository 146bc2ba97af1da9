// Who pays in the cases: accounts with a key, with and without what they need, and contract accounts of an owner.
// Sends the transactions that furnish them; the cases themselves send none.
import { createWalletClient, encodeFunctionData, getAddress, http, maxUint256, pad, parseAbi, publicActions } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";
import { PERMIT2, TOKEN, artifact, strangerAccount } from "./chain.mjs";

/** What a payer that is made for one case gets, in atomic units: more than any case costs. */
const FUNDS = 50_000n;
/** What a payer gets that all cases share. */
const SHARED_FUNDS = 1_000_000n;
const RECEIPT_POLL_MS = 20;
const SALT = pad("0x402", { size: 32 });
const TOKEN_ABI = parseAbi([
  "function transfer(address to, uint256 value) returns (bool)",
  "function approve(address spender, uint256 value) returns (bool)",
]);
const FACTORY_ABI = parseAbi([
  "function deploy(address owner, bytes32 salt) returns (address)",
  "function predict(address owner, bytes32 salt) view returns (address)",
]);
const WALLET_ABI = parseAbi(["function execute(address target, uint256 value, bytes data) payable returns (bytes)"]);

/** Sends calls from a development account, each mined before the next. */
class Sender {
  #client;

  constructor(chain, { privateKey }) {
    const account = privateKeyToAccount(privateKey);
    const transport = http(chain.url);
    this.#client = createWalletClient({ account, chain: baseSepolia, transport, pollingInterval: RECEIPT_POLL_MS, cacheTime: 0 }).extend(publicActions);
  }

  async send(to, data) {
    const hash = await this.#client.sendTransaction({ to, data });
    const receipt = await this.#client.waitForTransactionReceipt({ hash });
    if (receipt.status !== "success") throw new Error(`furnishing failed: ${hash} to ${to}`);
    return receipt;
  }

  async deploy(name, ...args) {
    const { creationCode } = artifact(name);
    const { contractAddress } = await this.send(undefined, creationCode + args.map((address) => pad(address, { size: 32 }).slice(2)).join(""));
    return contractAddress;
  }

  async read(address, abi, functionName, args) {
    return this.#client.readContract({ address, abi, functionName, args });
  }
}

/** The payers on one chain. */
export class Payers {
  #banker;
  #funded;
  #wallet;
  #factories;

  /** Furnishes `funded`, accounts by the name of their client that hold tokens, and the contract accounts of `owner`, who has gas and tokens. */
  static async furnish(chain, funded, owner) {
    const payers = new Payers();
    payers.#funded = funded;
    const banker = (payers.#banker = new Sender(chain, owner));
    const approve = encodeFunctionData({ abi: TOKEN_ABI, functionName: "approve", args: [PERMIT2, maxUint256] });
    await Promise.all(Object.values(funded).map((account) => new Sender(chain, account).send(TOKEN, approve)));
    for (const { address } of Object.values(funded)) {
      if ((await chain.tokensOf(address)) === 0n) await payers.#give(address, SHARED_FUNDS);
    }
    payers.#factories = { allowed: await banker.deploy("zoo/WalletFactory"), unknown: await banker.deploy("zoo/WalletFactory") };
    const wallet = getAddress(await banker.deploy("Wallet1271", owner.address));
    await payers.#give(wallet, SHARED_FUNDS);
    await banker.send(wallet, encodeFunctionData({ abi: WALLET_ABI, functionName: "execute", args: [TOKEN, 0n, approve] }));
    payers.#wallet = { address: wallet, privateKey: owner.privateKey, env: { WALLET: wallet } };
    return payers;
  }

  /** The factory whose wallets facilitators deploy. */
  get allowedFactory() {
    return this.#factories.allowed;
  }

  /**
   * The account a case pays from: `{address, privateKey, env}`. `env` tells a client script about a contract account,
   * `deploys` is there when it is not deployed yet.
   */
  async of({ client, payer }) {
    switch (payer) {
      // Has tokens, gas, and an allowance for Permit2.
      case "funded":
      // The same, with a clock that is behind.
      case "late":
        return this.#funded[client];
      // Has nothing.
      case "unfunded":
        return strangerAccount();
      // Has tokens and nothing else.
      case "fresh":
        return this.#withTokens(strangerAccount());
      case "wallet":
        return this.#wallet;
      case "undeployed":
        return this.#undeployed(this.#factories.allowed);
      case "undeployed-elsewhere":
        return this.#undeployed(this.#factories.unknown);
      default:
        throw new Error(`no such payer: ${payer}`);
    }
  }

  async #undeployed(factory) {
    const { address: owner, privateKey } = strangerAccount();
    const address = await this.#banker.read(factory, FACTORY_ABI, "predict", [owner, SALT]);
    const data = encodeFunctionData({ abi: FACTORY_ABI, functionName: "deploy", args: [owner, SALT] });
    const env = { WALLET: address, WALLET_FACTORY: factory, WALLET_FACTORY_DATA: data };
    return this.#withTokens({ address, privateKey, env, deploys: true });
  }

  async #withTokens(account) {
    await this.#give(account.address, FUNDS);
    return account;
  }

  async #give(to, amount) {
    await this.#banker.send(TOKEN, encodeFunctionData({ abi: TOKEN_ABI, functionName: "transfer", args: [to, amount] }));
  }
}
