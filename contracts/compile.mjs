// SPDX-License-Identifier: Apache-2.0
// Compiles src/**/*.sol with the pinned npm solc into artifacts/**/*.json, one for each contract that has code.
// `node compile.mjs` writes them; `node compile.mjs --check` compares and exits 1 on any difference.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, writeFileSync, existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import path from "node:path";
import solc from "solc";

const root = path.dirname(fileURLToPath(import.meta.url));
const sources = path.join(root, "src");
const artifacts = path.join(root, "artifacts");
const check = process.argv.includes("--check");

const settings = {
  optimizer: { enabled: true, runs: 200 },
  evmVersion: "prague",
  // Neither the path of the checkout nor the metadata reaches the code, so every machine makes the same bytes.
  metadata: { bytecodeHash: "none", appendCBOR: false },
};

/** The files below `folder` that end in `suffix`, as sorted paths with forward slashes. */
function filesBelow(folder, suffix) {
  const entries = existsSync(folder) ? readdirSync(folder, { recursive: true }) : [];
  return entries.map((file) => file.split(path.sep).join("/")).filter((file) => file.endsWith(suffix)).sort();
}

/** Whether a contract is only ever deployed by its creation code, in tests. All others genesis may place as runtime code. */
const isDeployed = (file) => file.startsWith("zoo/");

const names = filesBelow(sources, ".sol");
const text = Object.fromEntries(names.map((file) => [file, readFileSync(path.join(sources, file), "utf8")]));
const output = JSON.parse(
  solc.compile(
    JSON.stringify({
      language: "Solidity",
      sources: Object.fromEntries(names.map((file) => [file, { content: text[file] }])),
      settings: {
        ...settings,
        outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode", "storageLayout"] } },
      },
    }),
  ),
);

const complaints = output.errors ?? [];
for (const complaint of complaints) console.error(complaint.formattedMessage);
if (complaints.length > 0) process.exit(1);

const expected = new Set();
let different = false;
for (const file of names) {
  const contractName = path.basename(file, ".sol");
  const contract = output.contracts[file][contractName];
  // An interface, or a base that others extend.
  if (contract.evm.bytecode.object === "") continue;
  if (!isDeployed(file) && Object.keys(contract.evm.deployedBytecode.immutableReferences ?? {}).length > 0) {
    console.error(`${file}: immutables cannot be placed by genesis`);
    process.exit(1);
  }
  const artifact = {
    contractName,
    compiler: { name: "solc", version: solc.version().replace(/\.Emscripten.*$/, ""), settings },
    source: { file: `src/${file}`, sha256: createHash("sha256").update(text[file]).digest("hex") },
    storage: contract.storageLayout.storage.map(({ label, slot, offset, type }) => ({ label, slot, offset, type })),
    abi: contract.abi,
    creationCode: `0x${contract.evm.bytecode.object}`,
    runtimeCode: `0x${contract.evm.deployedBytecode.object}`,
  };
  // Type ids carry numbers of the syntax tree; the label, slot and offset are what genesis relies on.
  for (const entry of artifact.storage) entry.type = entry.type.replace(/\)\d+(?=_|$)/g, ")");
  const wanted = `${JSON.stringify(artifact, null, 2)}\n`;
  const name = file.replace(/\.sol$/, ".json");
  const target = path.join(artifacts, name);
  expected.add(name);
  if (!check) {
    mkdirSync(path.dirname(target), { recursive: true });
    writeFileSync(target, wanted);
    console.log(`${contractName}: ${(artifact.runtimeCode.length - 2) / 2} bytes`);
  } else if (!existsSync(target) || readFileSync(target, "utf8") !== wanted) {
    console.error(`${contractName}: artifacts/${name} is not what src/${file} compiles to`);
    different = true;
  } else {
    console.log(`${contractName}: same`);
  }
}
if (check) {
  for (const stray of filesBelow(artifacts, ".json").filter((file) => !expected.has(file))) {
    console.error(`${stray}: no source compiles to it`);
    different = true;
  }
}
process.exit(different ? 1 : 0);
