// Starts the matrix's processes, keeps what they print, and ends each of them by its pid.
// Knows nothing about payments.
import { spawn } from "node:child_process";
import { createWriteStream, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";

const READY_TIMEOUT_MS = 30_000;
const READY_POLL_MS = 40;
const PROBE_TIMEOUT_MS = 10_000;
const STOP_GRACE_MS = 2_000;
const OUTPUT_LIMIT_BYTES = 1024 * 1024;

/** A TCP port of 127.0.0.1 that was free a moment ago. */
export async function freePort() {
  const probe = createServer();
  await new Promise((resolve, reject) => {
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", resolve);
  });
  const { port } = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

/** The processes of one run. Everything they print goes into files under `folder`. */
export class ProcessGroup {
  #folder;
  #running = new Map();

  constructor(folder) {
    this.#folder = folder;
    process.once("exit", () => this.#killLeftovers());
  }

  /** Where the output of the process called `name` is kept. */
  logOf(name) {
    return join(this.#folder, `${name.replaceAll(/[^\w.-]+/g, "_")}.log`);
  }

  /** The last `lines` lines that the process called `name` printed. */
  tailOf(name, lines) {
    try {
      return readFileSync(this.logOf(name), "utf8").trimEnd().split("\n").slice(-lines).join("\n");
    } catch {
      return "(printed nothing)";
    }
  }

  /** Starts a long-lived process and waits until `probe()` is true. A process that ends first is an error. */
  async start({ name, command, args, env, cwd }, probe) {
    const child = this.#spawn({ command, args, env, cwd });
    const log = createWriteStream(this.logOf(name), { flags: "a" });
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    let ended = null;
    child.once("error", (error) => (ended = error.message));
    child.once("exit", (code, signal) => (ended = `ended with ${signal ?? `exit code ${code}`}`));
    const deadline = Date.now() + READY_TIMEOUT_MS;
    while (!(await probe().catch(() => false))) {
      if (ended) throw new Error(`${name} ${ended} before it was ready\n${this.tailOf(name, 40)}`);
      if (Date.now() > deadline) throw new Error(`${name} was not ready after ${READY_TIMEOUT_MS} ms\n${this.tailOf(name, 40)}`);
      await new Promise((resolve) => setTimeout(resolve, READY_POLL_MS));
    }
  }

  /** Runs a process to its end and returns `{code, stdout, stderr}`; past `timeoutMs` it is killed and `code` is null. */
  async runToEnd({ command, args, env, cwd }, timeoutMs) {
    const child = this.#spawn({ command, args, env, cwd });
    const stdout = [];
    const stderr = [];
    for (const [stream, parts] of [[child.stdout, stdout], [child.stderr, stderr]]) {
      let kept = 0;
      stream.on("data", (part) => {
        kept += part.length;
        if (kept <= OUTPUT_LIMIT_BYTES) parts.push(part);
      });
    }
    const timer = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
    const code = await new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("close", resolve);
    }).finally(() => clearTimeout(timer));
    return { code, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() };
  }

  /**
   * Starts a process that answers each line of its standard input with one line, and returns how to ask it: a question in,
   * the answer out. Past `timeoutMs` it is killed, and whoever asks then or later gets an error.
   */
  converse({ name, command, args, env, cwd }, timeoutMs) {
    const child = this.#spawn({ command, args, env, cwd, stdin: "pipe" });
    // What is asked of a process that has ended fails by its missing answer.
    child.stdin.on("error", () => {});
    child.once("error", () => {});
    child.stderr.pipe(createWriteStream(this.logOf(name), { flags: "a" }));
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    return async (question) => {
      child.stdin.write(`${question}\n`);
      const timer = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
      const { value, done } = await lines.next().finally(() => clearTimeout(timer));
      if (done) throw new Error(`${name} ended without an answer\n${this.tailOf(name, 40)}`);
      return value;
    };
  }

  /** Ends every process that still runs: asks first, kills after a grace period. */
  async stopAll() {
    const children = [...this.#running.values()];
    const gone = children.map((child) => new Promise((resolve) => child.once("exit", resolve)));
    for (const child of children) child.kill("SIGTERM");
    const timer = setTimeout(() => this.#killLeftovers(), STOP_GRACE_MS);
    await Promise.all(gone);
    clearTimeout(timer);
  }

  #spawn({ command, args, env, cwd, stdin = "ignore" }) {
    const child = spawn(command, args, { cwd, env: { ...inheritedEnvironment(), ...env }, stdio: [stdin, "pipe", "pipe"] });
    if (child.pid !== undefined) {
      this.#running.set(child.pid, child);
      child.once("exit", () => this.#running.delete(child.pid));
    }
    return child;
  }

  #killLeftovers() {
    for (const child of this.#running.values()) child.kill("SIGKILL");
  }
}

/** A readiness probe: `GET url` answers, with one of `statuses`. */
export function answers(url, statuses) {
  return async () => {
    const response = await fetch(url, { signal: AbortSignal.timeout(PROBE_TIMEOUT_MS) });
    await response.arrayBuffer();
    return statuses.includes(response.status);
  };
}

/** Nothing but what programs need to start: no proxy, no key of the person who runs this. */
function inheritedEnvironment() {
  const kept = ["PATH", "HOME", "TMPDIR", "LANG", "SYSTEMROOT"];
  return Object.fromEntries(kept.filter((name) => process.env[name]).map((name) => [name, process.env[name]]));
}
