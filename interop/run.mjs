// Runs the interop matrix: official SDKs and ours, both directions, on anvil and on our embedded chain.
// Usage and the table of cases: interop/README.md. Needs `node interop/setup.mjs` once.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { check } from "./harness/check.mjs";
import { cases, needsOurs } from "./harness/cases.mjs";
import { ProcessGroup } from "./harness/processes.mjs";
import { startStack } from "./harness/stack.mjs";

const RUN_BUDGET_MS = { short: 6 * 60 * 1000, long: 15 * 60 * 1000 };
const LOG_LINES = 40;
/** What `node interop/setup.mjs --long` builds. */
const NEXT = fileURLToPath(new URL("servers/next/.next/.installed-from", import.meta.url));

const { values: options } = parseArgs({
  options: {
    bin: { type: "string" },
    "official-only": { type: "boolean", default: false },
    filter: { type: "string", default: "" },
    chain: { type: "string", default: "both" },
    json: { type: "boolean", default: false },
    long: { type: "boolean", default: false },
    list: { type: "boolean", default: false },
  },
});

const plan = planned(options);
const budget = options.long ? RUN_BUDGET_MS.long : RUN_BUDGET_MS.short;
if (options.list) {
  for (const { name } of plan) console.log(name);
  process.exit(0);
}

const folder = mkdtempSync(join(tmpdir(), "pay402-interop-"));
const group = new ProcessGroup(folder);
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(130));

const started = Date.now();
const results = [];
try {
  for (const kind of ["anvil", "devchain"]) {
    const own = plan.filter((one) => one.kind === kind);
    if (own.length > 0) results.push(...(await runOn(kind, own)));
  }
} finally {
  await group.stopAll();
}
const failed = results.filter(({ ok }) => !ok).length;
const passed = results.length - failed;
if (options.json) console.log(JSON.stringify({ interop: { passed, failed, ms: Date.now() - started } }));
else console.log(`interop: ${passed} passed, ${failed} failed`);
if (failed === 0) rmSync(folder, { recursive: true, force: true });
else console.error(`interop: output of all components is in ${folder}`);
process.exitCode = failed === 0 ? 0 : 1;

/** Runs the cases of one chain, one after the other, and ends the chain and everything on it. */
async function runOn(kind, own) {
  const binary = options.bin && resolve(options.bin);
  const done = [];
  let stack;
  try {
    stack = await startStack({ kind, binary, group, folder });
  } catch (error) {
    return own.map(({ name }) => announce({ name, ok: false, ms: 0, reason: `no chain: ${error.message}` }));
  }
  for (const one of own) {
    const begin = Date.now();
    let reason = null;
    try {
      if (begin - started > budget) throw new Error(`not run: the matrix is over its budget of ${budget} ms`);
      await check(stack, one);
    } catch (error) {
      reason = error.message;
    }
    done.push(announce({ name: one.name, ok: reason === null, ms: Date.now() - begin, reason }));
    if (reason !== null) printLogs(stack.logsOf(one));
  }
  await group.stopAll();
  return done;
}

function announce(result) {
  if (options.json) console.log(JSON.stringify({ case: result.name, ok: result.ok, ms: result.ms, reason: result.reason }));
  else if (result.ok) console.log(`ok ${result.name} ${result.ms}`);
  else {
    const [first, ...rest] = result.reason.trim().split("\n");
    console.log(`FAIL ${result.name}: ${first}`);
    if (rest.length > 0) console.error(rest.join("\n"));
  }
  return result;
}

function printLogs(names) {
  for (const name of names) console.error(`--- ${name}\n${group.tailOf(name, LOG_LINES)}`);
}

/** The cases the options ask for, with their chain in the name. */
function planned({ bin, "official-only": officialOnly, filter, chain, list, long }) {
  if (!["anvil", "devchain", "both"].includes(chain)) usage(`--chain ${chain}`);
  if (!bin && !officialOnly && !list) usage("--bin is missing");
  const kinds = chain === "both" ? ["anvil", "devchain"] : [chain];
  if (officialOnly && !bin && kinds.includes("devchain")) usage("--official-only without --bin runs on anvil alone: add --chain anvil");
  if (long && !list && !existsSync(NEXT)) usage("--long needs node interop/setup.mjs --long once");
  const all = kinds.flatMap((kind) => cases({ long }).map((one) => ({ ...one, kind, name: `${kind}/${one.name}` })));
  const here = all.filter((one) => long || !one.once || one.kind === kinds[0]);
  const chosen = here.filter((one) => one.name.includes(filter) && !(officialOnly && needsOurs(one)));
  if (chosen.length === 0) usage(`no case matches ${JSON.stringify(filter)}`);
  return chosen;
}

function usage(problem) {
  console.error(`interop: ${problem}
usage: node interop/run.mjs --bin <pay402> [--filter <text>] [--chain anvil|devchain|both] [--json] [--list] [--long] [--official-only]`);
  process.exit(2);
}
