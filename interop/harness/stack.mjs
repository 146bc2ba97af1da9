// One chain and the servers and facilitators on it: how each component of the matrix is started and called.
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { decodePaymentResponseHeader } from "@x402/core/http";
import { jsonOrText } from "../environment.mjs";
import { CLIENTS, FACILITATORS, SERVERS } from "./cases.mjs";
import { CHAIN_ID, Chain, NETWORK_V1, NETWORK_V2, TOKEN, developmentAccount, strangerAccount } from "./chain.mjs";
import { Payers } from "./payers.mjs";
import { answers, freePort } from "./processes.mjs";

/** What things cost that have a price, as the servers are told it, and in atomic units of the token. */
export const PRICE = "$0.001";
export const PRICE_ATOMIC = 1000n;
/** The most that metered things may cost, and what a unit of them costs. */
const CEILING = "$0.01";
export const CEILING_ATOMIC = 10_000n;
const UNIT = "$0.0025";
export const UNIT_ATOMIC = 2500n;
export const POST_BODY = '{"question":"6x7"}';
/** How long one settle call waits at `pay402-impatient`. */
const IMPATIENT_WAIT_S = 2;
/** How long payments to servers of `pay402-slow` are good, and one settle call waits there. */
const SLOW_MAX_TIMEOUT_S = 10;
/** How far behind the clock of a late payer is: further than any terms here allow. */
const LATE_S = 3600;
/** A network that no facilitator here serves. */
export const UNSERVED_NETWORK = "eip155:8453";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const CASE_TIMEOUT_MS = 30_000;
const START_TIMEOUT_MS = 15_000;
/** What opens `pay402-keyed`, and what does not. */
const FACILITATOR_KEY = randomBytes(16).toString("hex");
const WRONG_KEY = randomBytes(16).toString("hex");
// Indexes into the public development mnemonic. Each facilitator has its own signer, so that nonces never collide
// and the sender of a settlement tells which of the two made it.
const SIGNERS = {
  "ts-facilitator": developmentAccount(1),
  "pay402-facilitator": developmentAccount(2),
  "py-facilitator": developmentAccount(9),
  "pay402-keyed": developmentAccount(10),
  "pay402-slow": developmentAccount(11),
  "pay402-impatient": developmentAccount(13),
};
/** They ask for two confirmations, and the chains here make a block when there is something to put into it. */
const WAITS_FOR_A_BLOCK = ["pay402-slow", "pay402-impatient"];
const OWNER = developmentAccount(0);
const PAYERS = {
  "ts-fetch": developmentAccount(3),
  "ts-axios": developmentAccount(4),
  "py-httpx": developmentAccount(5),
  "x402-fetch": developmentAccount(6),
  "x402-axios": developmentAccount(7),
  "pay402-client": developmentAccount(8),
  "py-requests": developmentAccount(12),
};
/** Those of them to whom no chain gives anything at its start. */
const PENNILESS = [...Object.values(SIGNERS), ...Object.values(PAYERS)].filter(({ index }) => index >= 10);

/** Starts a fresh chain of the given kind, `anvil` or `devchain`. Servers follow when a case needs them. */
export async function startStack({ kind, binary, group, folder }) {
  const port = await freePort();
  const chain = new Chain(`http://127.0.0.1:${port}`);
  const flags = ["--port", String(port), "--chain-id", String(CHAIN_ID)];
  const spec =
    kind === "anvil"
      ? { command: anvilBinary(), args: [...flags, "--host", "127.0.0.1", "--silent"] }
      : { command: binary, args: ["devchain", ...flags] };
  const label = `${kind}-chain`;
  await group.start({ name: label, ...spec, cwd: folder }, () => chain.isUp());
  const holders = [OWNER, ...Object.values(PAYERS)].filter((account) => !PENNILESS.includes(account)).map(({ address }) => address);
  if (kind === "anvil") await chain.placeContracts(holders);
  for (const holder of holders) {
    if ((await chain.tokensOf(holder)) === 0n) throw new Error(`${kind} gave the development account ${holder} no tokens`);
  }
  for (const { address } of PENNILESS) await chain.giveWei(address);
  return new Stack({ kind, binary, group, folder, chain, payers: await Payers.furnish(chain, PAYERS, OWNER) });
}

/** The components on one chain. */
class Stack {
  #options;
  #urls = new Map();
  #conversations = new Map();
  #payee = strangerAccount().address;

  constructor(options) {
    this.#options = options;
  }

  get chain() {
    return this.#options.chain;
  }

  get payee() {
    return this.#payee;
  }

  /** The address that pays the gas of a facilitator's settlements. */
  signerOf(facilitator) {
    return SIGNERS[facilitator].address;
  }

  /** The account a case pays from, as [`Payers.of`] says. */
  async payerOf(one) {
    return this.#options.payers.of(one);
  }

  /** The names under which the output of a case's components is kept. */
  logsOf(one) {
    const served = [this.#serverLabel(one), this.#label(one.facilitator)];
    return CLIENTS[one.client]?.stays ? [this.#label(one.client), ...served] : served;
  }

  /** The URL of what a case buys, with a facilitator behind it; both are started the first time. */
  async urlOf(one) {
    const { server, goods, units } = one;
    const facilitatorUrl = await this.facilitatorUrlOf(one);
    const label = this.#serverLabel(one);
    const baseUrl = await this.#once(label, () => this.#startServer(label, one, facilitatorUrl));
    const path = SERVERS[server].path ?? (goods === "eip3009" ? "/paid" : `/${goods}`);
    if (units === undefined) return baseUrl + path;
    return `${baseUrl}${path}?${server === "pay402-server" ? `units=${units}` : `charge=${UNIT_ATOMIC * BigInt(units)}`}`;
  }

  /** The URL of a case's facilitator, which is started the first time. */
  async facilitatorUrlOf({ facilitator }) {
    return this.#once(this.#label(facilitator), () => this.#startFacilitator(facilitator));
  }

  /** How often a case's facilitator has answered settle calls so far: `{pending, settled}`. */
  async settleAnswers(one) {
    const text = await (await fetch(`${await this.facilitatorUrlOf(one)}/metrics`)).text();
    const sum = (outcome) =>
      text
        .split("\n")
        .filter((line) => line.startsWith("x402_settlements_total{") && line.includes(`outcome="${outcome}"`))
        .reduce((total, line) => total + Number(line.split(" ").at(-1)), 0);
    return { pending: sum("pending"), settled: sum("settled") };
  }

  /** The keys that servers prove themselves with: nobody else may see them. */
  get keys() {
    return [FACILITATOR_KEY, WRONG_KEY];
  }

  /** Starts a case's server for a network that its facilitator does not serve, and returns how that ended: `{code, said}`. */
  async startUnserved(one) {
    const env = { ...this.#serverEnv(one, await this.facilitatorUrlOf(one), await freePort()), NETWORK: UNSERVED_NETWORK };
    const { command, script } = SERVERS[one.server];
    const { code, stdout, stderr } = await this.#options.group.runToEnd({ ...scriptSpec(command, script), env }, START_TIMEOUT_MS);
    return { code, said: stdout + stderr };
  }

  /**
   * Lets a client buy what is at `url` and returns `{status, body, outcome, error, payment}`, where `payment` is the
   * header that paid. From our client that is `{status, body, outcome, receipt}` or `{refusal}`.
   */
  async buy({ client, method, goods, payer: kind }, url, payer) {
    const body = method === "GET" ? undefined : POST_BODY;
    if (CLIENTS[client].command === "pay402") return this.#buyWithOurs(url, method, body, payer);
    const settings = { URL: url, METHOD: method, EVM_PRIVATE_KEY: payer.privateKey, ...payer.env };
    // Without a node the official clients do not ask what Permit2 may move, and ask for no sponsor.
    if (isSponsored(goods)) settings.EVM_RPC_URL = this.chain.url;
    if (body !== undefined) settings.BODY = body;
    if (kind === "late") settings.CLOCK_BEHIND_S = String(LATE_S);
    return CLIENTS[client].stays ? this.#ask(client, settings) : this.#buyWithScript(CLIENTS[client], settings);
  }

  async #ask(client, settings) {
    const { command, script } = CLIENTS[client];
    const name = this.#label(client);
    if (!this.#conversations.has(name)) {
      this.#conversations.set(name, this.#options.group.converse({ name, ...scriptSpec(command, script) }, CASE_TIMEOUT_MS));
    }
    try {
      const answer = JSON.parse(await this.#conversations.get(name)(JSON.stringify(settings)));
      if (answer.threw) throw new Error(`the client failed: ${answer.threw}`);
      return answer;
    } catch (error) {
      this.#conversations.delete(name);
      throw error;
    }
  }

  async #buyWithScript({ command, script }, env) {
    const { code, stdout, stderr } = await this.#options.group.runToEnd({ ...scriptSpec(command, script), env }, CASE_TIMEOUT_MS);
    if (code !== 0) throw new Error(`the client ended with exit code ${code}\n${stderr}`);
    return JSON.parse(stdout);
  }

  /** `--include` shows what came over the wire, and standard error carries the receipt of our client. */
  async #buyWithOurs(url, method, body, payer) {
    const { binary, folder, group, kind } = this.#options;
    const args = ["pay", url, "--include", "--max-amount", "0.01", "--state-dir", join(folder, `${kind}-client`)];
    if (method !== "GET") args.push("-X", method, "-H", "content-type: application/json", "-d", body);
    const env = { EVM_PRIVATE_KEY: payer.privateKey, EVM_RPC_URL: this.chain.url };
    const { code, stdout, stderr } = await group.runToEnd({ command: binary, args, cwd: folder, env }, CASE_TIMEOUT_MS);
    const said = lastJson(stderr);
    if (code === null || !said) throw new Error(`pay402 pay ended with exit code ${code}\n${stderr}`);
    if (code !== 0) return { refusal: { ...said, exitCode: code, printed: stdout } };
    const { status, headers, body: text } = parseResponse(stdout);
    const outcome = headers.get("payment-response") ?? headers.get("x-payment-response");
    return {
      status,
      body: jsonOrText(text),
      outcome: outcome ? decodePaymentResponseHeader(outcome) : null,
      receipt: said.payment,
    };
  }

  async #startFacilitator(facilitator) {
    const { binary, folder, group } = this.#options;
    const { command, script } = FACILITATORS[facilitator];
    const { privateKey } = SIGNERS[facilitator];
    const name = this.#label(facilitator);
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    const spec =
      command === "pay402"
        ? {
            command: binary,
            args: ["facilitator", "--config", this.#writeConfig(facilitator, name, port)],
            env: { FACILITATOR_PRIVATE_KEY: privateKey },
            cwd: folder,
          }
        : {
            ...scriptSpec(command, script),
            env: { PORT: String(port), EVM_PRIVATE_KEY: privateKey, EVM_RPC_URL: this.chain.url, FACTORIES: this.#options.payers.allowedFactory },
          };
    await group.start({ name, ...spec }, answers(`${url}/supported`, [200]));
    return url;
  }

  /** The configuration of one of our facilitators. */
  #writeConfig(facilitator, name, port) {
    const home = join(this.#options.folder, name);
    mkdirSync(home, { recursive: true });
    const path = join(home, "facilitator.toml");
    writeFileSync(
      path,
      `listen = "127.0.0.1:${port}"
database = "facilitator.db"
${facilitator === "pay402-impatient" ? `settle_wait_s = ${IMPATIENT_WAIT_S}\n` : ""}
[[network]]
id = "${NETWORK_V2}"
rpc = "${this.chain.url}"
signer = { env = "FACILITATOR_PRIVATE_KEY" }
factories = ["${this.#options.payers.allowedFactory}"]
${WAITS_FOR_A_BLOCK.includes(facilitator) ? "confirmations = 2\n" : ""}
[network.sponsor]
approvals = true
advance_wei_max = 1000000000000000
${facilitator === "pay402-keyed" ? `\n[[caller]]\nname = "shop"\nkey_sha256 = "${sha256(FACILITATOR_KEY)}"\n` : ""}`,
    );
    return path;
  }

  async #startServer(name, one, facilitatorUrl) {
    const { binary, folder, group } = this.#options;
    const { command, program, script } = SERVERS[one.server];
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    if (command === "pay402") {
      const args = ["serve", "--listen", `127.0.0.1:${port}`, "--facilitator", facilitatorUrl, "--pay-to", this.payee];
      const paths = one.goods === "eip3009" ? ["GET /paid", "POST /paid"] : [`GET /${one.goods}`];
      args.push("--network", NETWORK_V2, ...howOursSells(one.goods), ...paths.flatMap((path) => ["--route", path]));
      await group.start({ name, command: binary, args, cwd: folder }, answers(url + paths[0].split(" ")[1], [402]));
      return url;
    }
    const env = this.#serverEnv(one, facilitatorUrl, port);
    const spec = program === "next" ? nextSpec(port) : scriptSpec(command, script);
    await group.start({ name, ...spec, env }, answers(url + (SERVERS[one.server].path ?? "/paid"), [402]));
    return url;
  }

  /** What an official server is told. */
  #serverEnv({ server, facilitator, ends }, facilitatorUrl, port) {
    const { version, program } = SERVERS[server];
    const env = {
      PORT: String(port),
      FACILITATOR_URL: facilitatorUrl,
      PAYEE: this.payee,
      NETWORK: version === "v1" ? NETWORK_V1 : NETWORK_V2,
      PRICE,
      TOKEN,
      AMOUNT: String(PRICE_ATOMIC),
      CEILING: String(CEILING_ATOMIC),
    };
    // One program with servers of both versions.
    if (program === "next") env.NETWORK_V1 = NETWORK_V1;
    if (program === "next") env.NETWORK = NETWORK_V2;
    if (facilitator === "pay402-keyed") env.FACILITATOR_KEY = ends === "turned-away" ? WRONG_KEY : FACILITATOR_KEY;
    if (facilitator === "pay402-slow") env.MAX_TIMEOUT_S = String(SLOW_MAX_TIMEOUT_S);
    return env;
  }

  /** Official servers sell everything from one process, ours one kind of thing. */
  #serverLabel({ server, facilitator, goods, ends }) {
    const parts = [SERVERS[server].program ?? server, facilitator];
    if (server === "pay402-server") parts.push(goods);
    if (ends === "turned-away") parts.push(ends);
    return this.#label(...parts);
  }

  #label(...parts) {
    return [this.#options.kind, ...parts].join("-");
  }

  async #once(label, start) {
    if (!this.#urls.has(label)) this.#urls.set(label, start());
    return this.#urls.get(label);
  }
}

/** The options by which `pay402 serve` sells `goods`. */
function howOursSells(goods) {
  const args = goods.startsWith("upto") ? ["--price", CEILING, "--upto", UNIT] : ["--price", PRICE];
  if (goods.startsWith("permit2")) args.push("--method", "permit2");
  // Without a domain in the offer there is no token permit, and clients sign a whole approval.
  if (goods.endsWith("-approval")) args.push("--asset", TOKEN, "--decimals", "6");
  return args;
}

function isSponsored(goods) {
  return goods.endsWith("-eip2612") || goods.endsWith("-approval");
}

/** The JSON object on the last line of a text, or null. */
function lastJson(text) {
  try {
    return JSON.parse(text.trim().split("\n").at(-1));
  } catch {
    return null;
  }
}

/** Status, headers and body of an HTTP response printed as text. */
function parseResponse(text) {
  const [head, ...rest] = text.replaceAll("\r\n", "\n").split("\n\n");
  const [statusLine, ...fields] = head.split("\n");
  const headers = new Headers(fields.map((field) => [field.slice(0, field.indexOf(":")), field.slice(field.indexOf(":") + 1).trim()]));
  return { status: Number(statusLine.split(" ")[1]), headers, body: rest.join("\n\n") };
}

function scriptSpec(command, script) {
  const interpreter = command === "python" ? join(ROOT, ".venv/bin/python") : process.execPath;
  return { command: interpreter, args: [join(ROOT, script)], cwd: ROOT };
}

function nextSpec(port) {
  const cwd = join(ROOT, "servers/next");
  return { command: process.execPath, args: ["node_modules/next/dist/bin/next", "start", "--hostname", "127.0.0.1", "--port", String(port)], cwd };
}

function sha256(text) {
  return createHash("sha256").update(text).digest("hex");
}

/** The executable inside the platform package: started directly, so that its pid is ours to end. */
export function anvilBinary() {
  const require = createRequire(import.meta.url);
  const packages = dirname(dirname(require.resolve("@foundry-rs/anvil/package.json")));
  const platform = readdirSync(packages).find((name) => name.startsWith("anvil-"));
  if (!platform) throw new Error("npm ships no anvil for this platform");
  return join(packages, platform, "bin", process.platform === "win32" ? "anvil.exe" : "anvil");
}
