// Installs what the matrix runs on: node_modules from package-lock.json, here and in genuine/, and .venv from requirements.lock;
// for the long form also node_modules of servers/next, and builds that app. Does nothing when what is there was made from the
// same files. Usage: node interop/setup.mjs [--long]
import { createHash } from "node:crypto";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const INSTALL_TIMEOUT_MS = 10 * 60 * 1000;
const STAMP = ".installed-from";
const NEXT = "servers/next/";
const root = dirname(fileURLToPath(import.meta.url));

/** Runs a command in a folder and stops the whole setup when it fails. */
function run(cwd, command, ...args) {
  const env = { ...process.env, NEXT_TELEMETRY_DISABLED: "1" };
  const done = spawnSync(command, args, { cwd, env, stdio: ["ignore", "inherit", "inherit"], timeout: INSTALL_TIMEOUT_MS });
  if (done.status !== 0) {
    const why = done.error ? done.error.message : `exit code ${done.status}`;
    console.error(`setup: ${command} ${args.join(" ")}: ${why}`);
    process.exit(1);
  }
}

/** Installs into `folder` unless its stamp says that these inputs made it. */
function ensure(folder, inputs, install) {
  const hash = createHash("sha256");
  for (const input of inputs) hash.update(input);
  const wanted = hash.digest("hex");
  const stamp = join(root, folder, STAMP);
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) {
    console.log(`setup: ${folder} is up to date`);
    return;
  }
  install();
  writeFileSync(stamp, wanted);
  console.log(`setup: ${folder} installed`);
}

/** The first interpreter on the path that is Python 3.11 or newer, as the lock asks. */
function python() {
  const check = "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 1)";
  const found = ["python3", "python3.13", "python3.12", "python3.11"].find(
    (name) => spawnSync(name, ["-c", check], { stdio: "ignore" }).status === 0,
  );
  if (!found) {
    console.error("setup: Python 3.11 or newer is needed (python3 on the path)");
    process.exit(1);
  }
  return found;
}

const text = (name) => readFileSync(join(root, name));
const { values: options } = parseArgs({ options: { long: { type: "boolean", default: false } } });

for (const folder of options.long ? ["", "genuine/", NEXT] : ["", "genuine/"]) {
  ensure(`${folder}node_modules`, [text(`${folder}package.json`), text(`${folder}package-lock.json`), process.version], () => {
    run(join(root, folder), "npm", "ci", "--no-fund", "--no-audit", "--loglevel=error");
  });
}

const interpreter = python();
const version = spawnSync(interpreter, ["--version"], { encoding: "utf8" }).stdout;
ensure(".venv", [text("requirements.lock"), version], () => {
  rmSync(join(root, ".venv"), { recursive: true, force: true });
  run(root, interpreter, "-m", "venv", ".venv");
  run(root, ".venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "-r", "requirements.lock");
});

if (options.long) {
  const sources = [...readdirSync(join(root, NEXT)), ...readdirSync(join(root, NEXT, "app"), { recursive: true }).map((name) => join("app", name))];
  const inputs = sources.filter((name) => /\.(js|mjs|json)$/.test(name)).sort().map((name) => text(NEXT + name));
  ensure(`${NEXT}.next`, [...inputs, process.version], () => run(join(root, NEXT), process.execPath, "node_modules/next/dist/bin/next", "build"));
}
