// The matrix: which client buys from which server with which facilitator. Data only.

/**
 * Wire version of each client against a server that offers both; the v2 clients here also buy from v1 servers. One that
 * `stays` makes all its purchases from one process, because most of its time goes into starting.
 */
export const CLIENTS = {
  "ts-fetch": { version: "v2", command: "node", script: "clients/fetch-v2.mjs", stays: true },
  "ts-axios": { version: "v2", command: "node", script: "clients/axios-v2.mjs" },
  "py-httpx": { version: "v2", command: "python", script: "clients/httpx_v2.py", stays: true },
  "x402-fetch": { version: "v1", command: "node", script: "clients/fetch-v1.mjs", stays: true },
  "x402-axios": { version: "v1", command: "node", script: "clients/axios-v1.mjs" },
  "pay402-client": { version: "v2", command: "pay402" },
  "py-requests": { version: "v2", command: "python", script: "clients/requests_v2.py", stays: true },
};

/**
 * Wire version of each server; `pay402-server` offers both in one 402. What is `long` to install or start is part of the
 * long form alone. All of next is one `program`, which sells at a `path` of each way to write it.
 */
export const SERVERS = {
  express: { version: "v2", command: "node", script: "servers/express-v2.mjs" },
  hono: { version: "v2", command: "node", script: "servers/hono-v2.mjs" },
  fastapi: { version: "v2", command: "python", script: "servers/fastapi_v2.py" },
  "x402-express": { version: "v1", command: "node", script: "servers/express-v1.mjs" },
  "x402-hono": { version: "v1", command: "node", script: "servers/hono-v1.mjs" },
  flask: { version: "v2", command: "python", script: "servers/flask_v2.py" },
  "pay402-server": { version: "v2", command: "pay402" },
  next: { version: "v2", program: "next", path: "/v2/paid", long: true },
  "next-proxy": { version: "v2", program: "next", path: "/v2/proxied", long: true },
  "x402-next": { version: "v1", program: "next", path: "/v1/paid", long: true },
  "x402-next-proxy": { version: "v1", program: "next", path: "/v1/proxied", long: true },
};

/**
 * `pay402-keyed` serves those who have its key. `pay402-slow` and `pay402-impatient` wait for a block more than the chain makes
 * by itself: as long as the terms say, or as long as they are set to.
 */
export const FACILITATORS = {
  "ts-facilitator": { command: "node", script: "facilitators/typescript.mjs" },
  "py-facilitator": { command: "python", script: "facilitators/python.py" },
  "pay402-facilitator": { command: "pay402" },
  "pay402-keyed": { command: "pay402" },
  "pay402-slow": { command: "pay402" },
  "pay402-impatient": { command: "pay402" },
};

const V2_SERVERS = ["express", "hono", "fastapi", "flask"];
const V1_SERVERS = ["x402-express", "x402-hono"];
const NEXT_V2 = ["next", "next-proxy"];
const NEXT_V1 = ["x402-next", "x402-next-proxy"];
const V2_CLIENTS = ["ts-fetch", "ts-axios", "py-httpx", "py-requests"];
const V1_CLIENTS = ["x402-fetch", "x402-axios"];
const EVERY_CLIENT = [...V2_CLIENTS, ...V1_CLIENTS, "pay402-client"];

/**
 * The cases of one chain: `{name, client, server, facilitator, method, payer, goods, units, ends}`. `goods` is how the
 * thing is paid for, `units` how many of it are bought where it is metered. Those with `once` ask nothing of the chain that
 * another chain could answer otherwise; the short form runs them on one. With `long` the servers that are heavy are there.
 */
export function cases({ long }) {
  const plain = [...plainCases(), ...permit2Cases(), ...uptoCases(), ...approvalCases(), ...walletCases()];
  const all = [...plain, ...dropInCases(long)];
  return all.map((one) => ({ method: "GET", payer: "funded", goods: "eip3009", ends: "paid", ...one })).map(named);
}

/** Scheme `exact` with EIP-3009, paid from an account with a key. */
function plainCases() {
  const paid = [
    // Everybody buys from our server, settled by either facilitator.
    ...across(EVERY_CLIENT, ["pay402-server"], ["pay402-facilitator", "ts-facilitator"]),
    // Our client buys from every official server, settled by either facilitator.
    ...across(["pay402-client"], [...V2_SERVERS, ...V1_SERVERS], ["ts-facilitator", "pay402-facilitator"]),
    // Official clients buy from official servers; our facilitator settles.
    ...across(["ts-fetch", "py-httpx"], V2_SERVERS, ["pay402-facilitator"]),
    ...across(["ts-axios"], ["express", "flask"], ["pay402-facilitator"]),
    ...across([...V1_CLIENTS, "py-httpx"], V1_SERVERS, ["pay402-facilitator"]),
    ...across(["py-requests"], ["hono", "flask", "x402-hono"], ["pay402-facilitator"]),
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
    ...across(["ts-fetch"], V2_SERVERS, ["pay402-facilitator"]),
    ...across(["x402-fetch"], V1_SERVERS, ["pay402-facilitator"]),
    ...across(["ts-fetch"], ["express"], ["ts-facilitator"]),
    ...across(["x402-fetch"], ["x402-express"], ["ts-facilitator"]),
    ...across(["ts-fetch", "x402-fetch"], ["pay402-server"], ["ts-facilitator"]),
    ...across(["pay402-client"], ["express", "x402-express"], ["ts-facilitator", "pay402-facilitator"]),
    ...across(["pay402-client"], ["fastapi", "pay402-server"], ["pay402-facilitator"]),
  ].map((one) => ({ ...one, payer: "unfunded", ends: "insufficient" }));
  return [...paid, ...withBody, ...unfunded];
}

/** Our server and our facilitator between the parts of each SDK, and together. */
const SOLD_BY_US = [
  ...across(["ts-fetch"], ["pay402-server"], ["pay402-facilitator", "ts-facilitator"]),
  ...across(["py-httpx"], ["pay402-server"], ["py-facilitator"]),
];
const SETTLED_BY_US = [...across(["ts-fetch"], ["express"], ["pay402-facilitator"]), ...across(["py-httpx"], ["fastapi"], ["pay402-facilitator"])];
/** Our client among the parts of each SDK, and among our own. */
const BOUGHT_BY_US = [
  ...across(["pay402-client"], ["express"], ["ts-facilitator"]),
  ...across(["pay402-client"], ["hono", "pay402-server"], ["pay402-facilitator"]),
  ...across(["pay402-client"], ["fastapi"], ["py-facilitator"]),
];
/** Nothing of ours but the chain. */
const CONTROL = [...across(["ts-fetch"], ["express"], ["ts-facilitator"]), ...across(["py-httpx"], ["fastapi"], ["py-facilitator"])];

/** Scheme `exact` through Permit2, with an allowance that stands and with one that a token permit brings along. */
function permit2Cases() {
  return [
    ...[...SOLD_BY_US, ...SETTLED_BY_US, ...BOUGHT_BY_US, ...CONTROL].map((one) => ({ ...one, goods: "permit2" })),
    ...[...SOLD_BY_US, ...SETTLED_BY_US, ...BOUGHT_BY_US].map((one) => ({ ...one, goods: "permit2-eip2612", payer: "fresh" })),
    ...[
      ...across(["ts-fetch"], ["express", "pay402-server"], ["pay402-facilitator"]),
      ...across(["ts-fetch"], ["pay402-server"], ["ts-facilitator"]),
      ...across(["py-httpx"], ["fastapi"], ["pay402-facilitator"]),
      ...across(["pay402-client"], ["express"], ["pay402-facilitator"]),
    ].map((one) => ({ ...one, goods: "permit2", payer: "fresh", ends: "no-allowance" })),
    ...[
      ...across(["ts-fetch"], ["express", "pay402-server"], ["pay402-facilitator"]),
      ...across(["py-httpx"], ["fastapi"], ["pay402-facilitator"]),
    ].map((one) => ({ ...one, goods: "permit2", ends: "replayed" })),
  ];
}

/** Scheme `upto`: of a ceiling, a part or nothing is charged. */
function uptoCases() {
  const sponsored = [
    ...across(["ts-fetch"], ["pay402-server"], ["pay402-facilitator", "ts-facilitator"]),
    ...across(["py-httpx"], ["fastapi"], ["pay402-facilitator"]),
    ...across(["pay402-client"], ["express", "fastapi"], ["pay402-facilitator"]),
  ];
  return [
    ...[...SOLD_BY_US, ...SETTLED_BY_US, ...BOUGHT_BY_US, ...CONTROL].map((one) => ({ ...one, goods: "upto", units: 1 })),
    ...sponsored.map((one) => ({ ...one, goods: "upto-eip2612", payer: "fresh", units: 1 })),
    ...[
      ...across(["ts-fetch"], ["express"], ["pay402-facilitator"]),
      ...across(["py-httpx"], ["pay402-server"], ["pay402-facilitator"]),
      ...across(["ts-fetch"], ["pay402-server"], ["ts-facilitator"]),
    ].map((one) => ({ ...one, goods: "upto", units: 0 })),
    ...across(["ts-fetch"], ["express"], ["pay402-facilitator"]).map((one) => ({ ...one, goods: "upto" })),
    ...across(["ts-fetch"], ["pay402-server"], ["pay402-facilitator"]).map((one) => ({ ...one, goods: "upto", units: 1, ends: "replayed" })),
    ...across(["ts-fetch"], ["hono"], ["pay402-facilitator"]).map((one) => ({ ...one, goods: "upto", payer: "fresh", ends: "no-allowance" })),
  ];
}

/** The payer signs a whole approval of Permit2, and the facilitator pays for it: for tokens without permits. */
function approvalCases() {
  const everyPart = [
    ...SOLD_BY_US,
    ...SETTLED_BY_US,
    ...CONTROL,
    ...across(["pay402-client"], ["pay402-server", "express"], ["pay402-facilitator"]),
    ...across(["pay402-client"], ["express"], ["ts-facilitator"]),
  ];
  return [
    ...everyPart.map((one) => ({ ...one, goods: "permit2-approval", payer: "fresh" })),
    ...everyPart.map((one) => ({ ...one, goods: "upto-approval", payer: "fresh", units: 1 })),
  ];
}

/** Contract accounts pay: one that is deployed (EIP-1271), and ones that their first payment deploys (ERC-6492). */
function walletCases() {
  return [
    ...[...SOLD_BY_US, ...SETTLED_BY_US].map((one) => ({ ...one, payer: "wallet" })),
    ...[...SOLD_BY_US, ...SETTLED_BY_US, ...CONTROL].map((one) => ({ ...one, payer: "undeployed" })),
    ...[
      ...across(["ts-fetch"], ["pay402-server"], ["pay402-facilitator"]),
      ...across(["py-httpx"], ["fastapi"], ["pay402-facilitator"]),
    ].map((one) => ({ ...one, payer: "wallet", goods: "permit2" })),
    ...across(["ts-fetch"], ["express"], ["pay402-facilitator"]).map((one) => ({ ...one, payer: "wallet", goods: "upto", units: 1 })),
    ...across(["ts-fetch"], ["express"], ["pay402-facilitator", "ts-facilitator"]).map((one) => ({ ...one, payer: "undeployed-elsewhere", ends: "unknown-factory" })),
    ...across(["py-httpx"], ["pay402-server"], ["pay402-facilitator"]).map((one) => ({ ...one, payer: "undeployed-elsewhere", ends: "unknown-factory" })),
  ];
}

/**
 * A server of an official SDK, moved to our facilitator by its URL alone: what it asks, what it passes on of refusals and of
 * outcomes that are not known yet, and how it proves itself.
 */
function dropInCases(long) {
  const v2 = [...V2_SERVERS, ...(long ? NEXT_V2 : [])];
  const v1 = [...V1_SERVERS, ...(long ? NEXT_V1 : [])];
  const bought = (facilitator) => [...across(["ts-fetch"], v2, [facilitator]), ...across(["x402-fetch"], v1, [facilitator])];
  const heavy = long
    ? [
        ...across(["ts-axios"], NEXT_V2, ["pay402-facilitator"]),
        ...across(["py-httpx", "py-requests", "pay402-client"], [...NEXT_V2, ...NEXT_V1], ["pay402-facilitator"]),
        ...across(["x402-axios"], NEXT_V1, ["pay402-facilitator"]),
        ...across(["pay402-client"], ["next", "x402-next"], ["ts-facilitator"]),
        ...across(["ts-fetch"], ["next"], ["ts-facilitator"]),
        ...across(["ts-fetch", "pay402-client"], ["next"], ["pay402-facilitator"]).map((one) => ({ ...one, method: "POST" })),
        ...across(["x402-fetch"], ["x402-next"], ["pay402-facilitator"]).map((one) => ({ ...one, method: "POST" })),
        ...[...across(["ts-fetch"], NEXT_V2, ["pay402-facilitator"]), ...across(["x402-fetch"], NEXT_V1, ["pay402-facilitator"])]
          .map((one) => ({ ...one, payer: "unfunded", ends: "insufficient" })),
      ]
    : [];
  const moved = [
    ...across(["nobody"], [...v2, ...v1], ["pay402-facilitator"]).map((one) => ({ ...one, ends: "asked" })),
    ...bought("pay402-facilitator").map((one) => ({ ...one, ends: "replayed" })),
    ...bought("pay402-facilitator").map((one) => ({ ...one, payer: "late", ends: "expired" })),
    ...heavy,
  ];
  const once = [
    ...bought("pay402-keyed"),
    ...(long ? bought("pay402-keyed") : oneOfEach("pay402-keyed")).map((one) => ({ ...one, ends: "turned-away" })),
    ...across(["nobody"], V2_SERVERS, ["pay402-facilitator"]).map((one) => ({ ...one, ends: "not-served" })),
    ...(long ? bought("pay402-impatient") : oneOfEach("pay402-impatient")).map((one) => ({ ...one, ends: "pending" })),
    ...across(["ts-fetch"], long ? v2 : ["express"], ["pay402-impatient"]).map((one) => ({ ...one, ends: "pending-again" })),
    ...(long ? bought("pay402-slow") : across(["ts-fetch"], ["express"], ["pay402-slow"])).map((one) => ({ ...one, ends: "pending" })),
  ];
  return [...moved, ...once.map((one) => ({ ...one, once: true }))];
}

/** One server for each piece of SDK that talks to facilitators: TypeScript, Python in its two ways, and version 1. */
function oneOfEach(facilitator) {
  return [...across(["ts-fetch"], ["express", "fastapi", "flask"], [facilitator]), ...across(["x402-fetch"], ["x402-hono"], [facilitator])];
}

/** Whether what is paid at most is more than what may be charged. */
export function hasCeiling(goods) {
  return goods.startsWith("upto");
}

/** Whether a case has a part of ours besides the chain. */
export function needsOurs({ client, server, facilitator }) {
  return [CLIENTS[client], SERVERS[server], FACILITATORS[facilitator]].some((part) => part?.command === "pay402");
}

/** The wire version that client and server of a case will speak. */
export function versionOf({ client, server }) {
  return CLIENTS[client]?.version === "v1" || SERVERS[server].version === "v1" ? "v1" : "v2";
}

function across(clients, servers, facilitators) {
  return clients.flatMap((client) =>
    servers.flatMap((server) => facilitators.map((facilitator) => ({ client, server, facilitator }))),
  );
}

function named(one) {
  const { client, server, facilitator, method, payer, goods, units, ends } = one;
  const how = [
    method === "GET" ? null : method.toLowerCase(),
    goods === "eip3009" ? null : goods,
    // Where a sponsor brings the allowance, or its absence is the point, the payer has none: that is not said twice.
    ["funded", "fresh", "late"].includes(payer) ? null : payer,
    units === 0 ? "nothing" : null,
    hasCeiling(goods) && units === undefined && ends === "paid" ? "all" : null,
    ["paid", "insufficient", "unknown-factory"].includes(ends) ? null : ends,
  ];
  const shown = how.filter((part) => part !== null).map((part) => `+${part}`).join("");
  return { ...one, name: `${versionOf(one)}/${client}${shown}>${server}>${facilitator}` };
}
