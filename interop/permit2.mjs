// Compares our Permit2 with the genuine one: both stand at the canonical address, each on an anvil of its own; the same
// calls go to both, and everything that comes of them has to be the same. What is compared: interop/README.md, "Permit2".
// Usage: node interop/permit2.mjs [--filter <text>] [--json] [--list]. Needs `node interop/setup.mjs` once.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isDeepStrictEqual, parseArgs } from "node:util";
import { x402ExactPermit2ProxyABI, x402UptoPermit2ProxyABI } from "@x402/evm";
import { concatHex, hexToBigInt, keccak256, numberToHex, size, slice } from "viem";
import { PERMIT2, artifact, genuinePermit2 } from "./harness/chain.mjs";
import { PERMIT2_ABI, goodCalls, permit2Cases } from "./harness/permit2-cases.mjs";
import { call, startWorld } from "./harness/permit2-world.mjs";
import { ProcessGroup } from "./harness/processes.mjs";

/** How many bent calls are compared. */
const BENT_CALLS = 600;
/** Of these, how many have to pass and how many to fail, so that neither is compared in vain. */
const BENT_LEAST = 20;

const { values: options } = parseArgs({
  options: {
    filter: { type: "string", default: "" },
    json: { type: "boolean", default: false },
    list: { type: "boolean", default: false },
  },
});
const plan = [
  { name: "domain", run: compareDomains },
  ...permit2Cases().map((one) => ({ name: one.name, run: (worlds) => compareCase(worlds, one) })),
  { name: "bent-calls", run: compareBentCalls },
  { name: "official-abi-exact", run: () => compareAbi("X402ExactPermit2Proxy", x402ExactPermit2ProxyABI) },
  { name: "official-abi-upto", run: () => compareAbi("X402UptoPermit2Proxy", x402UptoPermit2ProxyABI) },
].map((one) => ({ ...one, name: `permit2/${one.name}` }));
if (options.list) {
  for (const { name } of plan) console.log(name);
  process.exit(0);
}

const folder = mkdtempSync(join(tmpdir(), "pay402-permit2-"));
const group = new ProcessGroup(folder);
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(130));

const started = Date.now();
let passed = 0;
let failed = 0;
try {
  const worlds = await Promise.all([
    startWorld({ group, folder, name: "genuine", runtime: genuinePermit2() }),
    startWorld({ group, folder, name: "ours", runtime: artifact("Permit2").runtimeCode }),
  ]);
  // A case that is filtered out runs all the same, since each begins where the one before it ended; it is not counted.
  for (const one of plan) announce(one, await judged(worlds, one));
} finally {
  await group.stopAll();
}
if (options.json) console.log(JSON.stringify({ permit2: { passed, failed, ms: Date.now() - started } }));
else console.log(`permit2: ${passed} passed, ${failed} failed`);
rmSync(folder, { recursive: true, force: true });
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;

/** How a case ended: `{ms, reason}`, where no reason is a good one. */
async function judged(worlds, one) {
  const begin = Date.now();
  let reason = null;
  try {
    await one.run(worlds);
  } catch (error) {
    reason = error.message;
  }
  return { ms: Date.now() - begin, reason };
}

/** Runs a case in both worlds: what comes of every step has to be the same, and the end has to be the expected one. */
async function compareCase(worlds, { steps, expect }) {
  for (const [index, step] of steps.entries()) {
    const last = index === steps.length - 1;
    const [genuine, ours] = await Promise.all(worlds.map(async (world) => {
      const expected = last && typeof expect === "function" ? expect(world) : last ? expect : "ok";
      return { expected, ...(await world.send(await step(world))) };
    }));
    same(`step ${index}`, ours, genuine);
    const end = genuine.succeeded ? "ok" : genuine.output;
    if (genuine.succeeded && Object.keys(genuine.storage.after).length === 0) throw new Error(`step ${index} changed no storage that could be compared`);
    if (end !== genuine.expected) throw new Error(`step ${index} ends with ${end}, not with ${genuine.expected}`);
  }
}

function compareDomains(worlds) {
  return compareAnswers(worlds, { to: PERMIT2, data: call(PERMIT2_ABI, "DOMAIN_SEPARATOR", []) });
}

/** All that the official SDK knows of a proxy, ours has too. The one exception is the error of a constructor that ours has not. */
function compareAbi(name, official) {
  const field = ({ type, name, components = [], indexed }) => [type, name, components.map(field), indexed];
  const described = (abi) =>
    abi.map(({ type, name, inputs = [], outputs = [], stateMutability }) => JSON.stringify([type, name, inputs.map(field), outputs.map(field), stateMutability]));
  const ours = new Set(described(artifact(name).abi));
  const lacking = described(official).filter((item) => !ours.has(item) && !item.includes("InvalidPermit2Address"));
  if (lacking.length > 0) throw new Error(`ours lacks ${lacking.join(", ")}`);
}

async function compareAnswers(worlds, transaction) {
  const [genuine, ours] = await Promise.all(worlds.map((world) => world.ask(transaction)));
  same(`the answer to ${transaction.data}`, ours, genuine);
  return ours;
}

/** Asks both about good calls with something changed in them: the same changes in every run. */
async function compareBentCalls(worlds) {
  const [good, alike] = await Promise.all(worlds.map((world) => goodCalls(world)));
  same("good calls", alike, good);
  const random = randomWords();
  const seen = { returned: 0, reverted: 0 };
  for (let count = 0; count < BENT_CALLS; count += 1) {
    const { to, data } = good[count % good.length];
    const answer = await compareAnswers(worlds, { to, data: bend(data, random) });
    seen[Object.keys(answer)[0]] += 1;
  }
  for (const [kind, times] of Object.entries(seen)) {
    if (times < BENT_LEAST) throw new Error(`only ${times} bent calls ${kind}`);
  }
}

/** Changes a bit, a word or the end of a call's arguments. */
function bend(data, random) {
  const below = (end) => Number(random() % BigInt(end));
  const words = Math.floor((size(data) - 4) / 32);
  const at = 4 + 32 * below(words);
  const word = hexToBigInt(slice(data, at, at + 32));
  const bents = [
    () => word ^ (1n << BigInt(below(256))),
    () => word ^ (1n << BigInt(below(8))),
    () => random(),
    () => BigInt(below(700)),
    () => 1n << BigInt(below(256)),
    () => word,
  ];
  const put = numberToHex(bents[below(bents.length)](), { size: 32 });
  const changed = concatHex([slice(data, 0, at), put, ...(at + 32 < size(data) ? [slice(data, at + 32)] : [])]);
  return below(8) === 0 ? slice(changed, 0, 4 + below(size(changed) - 4)) : changed;
}

/** The hashes of a counter. */
function randomWords() {
  let drawn = 0n;
  return () => hexToBigInt(keccak256(numberToHex(drawn++, { size: 32 })));
}

function same(what, ours, genuine) {
  if (isDeepStrictEqual(ours, genuine)) return;
  const shown = (value) => JSON.stringify(value, (_, part) => (typeof part === "bigint" ? String(part) : part));
  throw new Error(`${what} differs\nours    ${shown(ours)}\ngenuine ${shown(genuine)}`);
}

function announce({ name }, { ms, reason }) {
  if (!name.includes(options.filter)) return;
  if (reason === null) passed += 1;
  else failed += 1;
  if (options.json) console.log(JSON.stringify({ case: name, ok: reason === null, ms, reason }));
  else if (reason === null) console.log(`ok ${name} ${ms}`);
  else console.log(`FAIL ${name}: ${reason}`);
}
