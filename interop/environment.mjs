// How every script in this folder takes its input and gives its answer: environment in, one JSON line out. Clients that
// stay take their settings from lines of standard input.
import { createInterface } from "node:readline";

/** The value of an environment variable that must be there. */
export function required(name) {
  const value = process.env[name];
  if (!value) {
    console.error(`missing environment variable ${name}`);
    process.exit(2);
  }
  return value;
}

/** The request a client script is asked to make. */
export function requestFromEnvironment() {
  return { ...requestFrom(process.env), url: required("URL"), privateKey: required("EVM_PRIVATE_KEY") };
}

/** The request that settings ask for, by the names that they have in the environment. */
export function requestFrom({ URL: url, EVM_PRIVATE_KEY: privateKey, METHOD: method = "GET", BODY: body, CLOCK_BEHIND_S: behind = "0" }) {
  return { url, privateKey, method, body, clockBehind: Number(behind) };
}

/** Answers each line of standard input, settings as one JSON object, with one line: what `buy` makes of it, or `{threw}`. */
export async function answerLines(buy) {
  for await (const line of createInterface({ input: process.stdin })) {
    report(await buy(JSON.parse(line)).catch((error) => ({ threw: String(error?.stack ?? error) })));
  }
}

/** What a server script sells, to whom the money goes and who settles. */
export function saleFromEnvironment() {
  const { MAX_TIMEOUT_S: maxTimeout } = process.env;
  return {
    port: Number(required("PORT")),
    facilitator: facilitatorFromEnvironment(),
    payee: required("PAYEE"),
    network: required("NETWORK"),
    price: process.env.PRICE ?? "$0.001",
    maxTimeoutSeconds: maxTimeout === undefined ? undefined : Number(maxTimeout),
  };
}

/** The settings of a facilitator's client, the same in both versions: its URL, and how to prove oneself to it where FACILITATOR_KEY is set. */
function facilitatorFromEnvironment() {
  const url = required("FACILITATOR_URL");
  const key = process.env.FACILITATOR_KEY;
  if (key === undefined) return { url };
  const headers = { Authorization: `Bearer ${key}` };
  return { url, createAuthHeaders: async () => ({ verify: headers, settle: headers, supported: headers }) };
}

/** Does `work` with a clock that is `seconds` behind. */
export async function withClockBehind(seconds, work) {
  const real = Date.now;
  Date.now = () => real() - seconds * 1000;
  try {
    return await work();
  } finally {
    Date.now = real;
  }
}

/** Prints a value as the one line of output. */
export function report(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** Parses JSON where it is JSON, and keeps the text where it is not. */
export function jsonOrText(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
