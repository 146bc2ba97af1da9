// The matrix: which client buys from which server with which facilitator. Data only.

/** Wire version of each client against a server that offers both; the v2 clients here also buy from v1 servers. */
export const CLIENTS = {
  "ts-fetch": { version: "v2", command: "node", script: "clients/fetch-v2.mjs" },
  "ts-axios": { version: "v2", command: "node", script: "clients/axios-v2.mjs" },
  "py-httpx": { version: "v2", command: "python", script: "clients/httpx_v2.py" },
  "x402-fetch": { version: "v1", command: "node", script: "clients/fetch-v1.mjs" },
  "x402-axios": { version: "v1", command: "node", script: "clients/axios-v1.mjs" },
  "pay402-client": { version: "v2", command: "pay402" },
};

/** Wire version of each server; `pay402-server` offers both in one 402. */
export const SERVERS = {
  express: { version: "v2", command: "node", script: "servers/express-v2.mjs" },
  hono: { version: "v2", command: "node", script: "servers/hono-v2.mjs" },
  fastapi: { version: "v2", command: "python", script: "servers/fastapi_v2.py" },
  "x402-express": { version: "v1", command: "node", script: "servers/express-v1.mjs" },
  "x402-hono": { version: "v1", command: "node", script: "servers/hono-v1.mjs" },
  "pay402-server": { version: "v2", command: "pay402" },
};

export const FACILITATORS = {
  "ts-facilitator": { command: "node", script: "facilitators/typescript.mjs" },
  "pay402-facilitator": { command: "pay402" },
};

const V2_SERVERS = ["express", "hono", "fastapi"];
const V1_SERVERS = ["x402-express", "x402-hono"];
const V2_CLIENTS = ["ts-fetch", "ts-axios", "py-httpx"];
const V1_CLIENTS = ["x402-fetch", "x402-axios"];
const EVERY_CLIENT = [...V2_CLIENTS, ...V1_CLIENTS, "pay402-client"];

/** The cases of one chain: `{name, client, server, facilitator, method, payer}`. */
export function cases() {
  const paid = [
    // Everybody buys from our server, settled by either facilitator.
    ...across(EVERY_CLIENT, ["pay402-server"], ["pay402-facilitator", "ts-facilitator"]),
    // Our client buys from every official server, settled by either facilitator.
    ...across(["pay402-client"], [...V2_SERVERS, ...V1_SERVERS], ["ts-facilitator", "pay402-facilitator"]),
    // Official clients buy from official servers; our facilitator settles.
    ...across(["ts-fetch", "py-httpx"], V2_SERVERS, ["pay402-facilitator"]),
    ...across(["ts-axios"], ["express"], ["pay402-facilitator"]),
    ...across([...V1_CLIENTS, "py-httpx"], V1_SERVERS, ["pay402-facilitator"]),
    // Nothing of ours but the chain: shows that harness and token are right.
    ...across(["ts-fetch"], V2_SERVERS, ["ts-facilitator"]),
    ...across(["ts-axios", "py-httpx"], ["express"], ["ts-facilitator"]),
    ...across(["x402-fetch"], V1_SERVERS, ["ts-facilitator"]),
    ...across(["x402-axios", "py-httpx"], ["x402-express"], ["ts-facilitator"]),
  ];
  const withBody = [
    ...across(["ts-fetch", "py-httpx", "x402-axios", "pay402-client"], ["pay402-server"], ["pay402-facilitator"]),
    ...across(["pay402-client"], ["express", "hono", "fastapi", "x402-express"], ["pay402-facilitator"]),
    ...across(["ts-fetch"], ["express"], ["ts-facilitator"]),
  ].map((one) => ({ ...one, method: "POST" }));
  // A payer without tokens: the refusal must travel back as a 402 that the client understands, and nothing may move.
  const unfunded = [
    ...across(["ts-fetch", "py-httpx", "x402-fetch"], ["pay402-server"], ["pay402-facilitator"]),
    ...across(["ts-fetch"], ["express", "fastapi"], ["pay402-facilitator"]),
    ...across(["x402-fetch"], ["x402-express"], ["pay402-facilitator"]),
    ...across(["ts-fetch"], ["express"], ["ts-facilitator"]),
    ...across(["x402-fetch"], ["x402-express"], ["ts-facilitator"]),
    ...across(["ts-fetch", "x402-fetch"], ["pay402-server"], ["ts-facilitator"]),
    ...across(["pay402-client"], ["express", "x402-express"], ["ts-facilitator", "pay402-facilitator"]),
    ...across(["pay402-client"], ["fastapi", "pay402-server"], ["pay402-facilitator"]),
  ].map((one) => ({ ...one, payer: "unfunded" }));
  return [...paid, ...withBody, ...unfunded].map((one) => ({ method: "GET", payer: "funded", ...one })).map(named);
}

/** Whether a case has a part of ours besides the chain. */
export function needsOurs({ client, server, facilitator }) {
  return [CLIENTS[client], SERVERS[server], FACILITATORS[facilitator]].some(({ command }) => command === "pay402");
}

/** The wire version that client and server of a case will speak. */
export function versionOf({ client, server }) {
  return CLIENTS[client].version === "v1" || SERVERS[server].version === "v1" ? "v1" : "v2";
}

function across(clients, servers, facilitators) {
  return clients.flatMap((client) =>
    servers.flatMap((server) => facilitators.map((facilitator) => ({ client, server, facilitator }))),
  );
}

function named(one) {
  const how = [one.method === "GET" ? "" : `+${one.method.toLowerCase()}`, one.payer === "funded" ? "" : `+${one.payer}`].join("");
  return { ...one, name: `${versionOf(one)}/${one.client}${how}>${one.server}>${one.facilitator}` };
}
