// What is done to every implementation of Permit2, and what has to come of it. A case is a list of steps; each makes one
// call when its turn comes, all but the last have to succeed, and of the last `expect` says how it ends.
import { concatHex, encodeErrorResult, hashStruct, hexToBigInt, keccak256, numberToHex, pad, parseAbi, slice, toHex } from "viem";
import { CHAIN_ID, EXACT_PROXY, PERMIT2, UPTO_PROXY } from "./chain.mjs";
import { TOKEN_ABI, call } from "./permit2-world.mjs";

const STRUCTS = [
  "struct TokenPermissions { address token; uint256 amount; }",
  "struct Permit { TokenPermissions permitted; uint256 nonce; uint256 deadline; }",
  "struct Batch { TokenPermissions[] permitted; uint256 nonce; uint256 deadline; }",
  "struct Details { address to; uint256 requestedAmount; }",
];
// Overloads cannot be told apart by their name, so each has an ABI of its own.
const SINGLE = parseAbi([...STRUCTS, "function permitTransferFrom(Permit permit, Details details, address owner, bytes signature)"]);
const BATCH = parseAbi([...STRUCTS, "function permitTransferFrom(Batch permit, Details[] details, address owner, bytes signature)"]);
const SINGLE_WITNESS = parseAbi([
  ...STRUCTS,
  "function permitWitnessTransferFrom(Permit permit, Details details, address owner, bytes32 witness, string typeString, bytes signature)",
]);
const BATCH_WITNESS = parseAbi([
  ...STRUCTS,
  "function permitWitnessTransferFrom(Batch permit, Details[] details, address owner, bytes32 witness, string typeString, bytes signature)",
]);
export const PERMIT2_ABI = parseAbi([
  "function DOMAIN_SEPARATOR() view returns (bytes32)",
  "function nonceBitmap(address owner, uint256 word) view returns (uint256)",
  "function invalidateUnorderedNonces(uint256 wordPos, uint256 mask)",
]);
const EXACT_ABI = parseAbi([
  ...STRUCTS,
  "struct Witness { address to; uint256 validAfter; }",
  "function settle(Permit permit, address owner, Witness witness, bytes signature)",
]);
const UPTO_ABI = parseAbi([
  ...STRUCTS,
  "struct Witness { address to; address facilitator; uint256 validAfter; }",
  "function settle(Permit permit, uint256 amount, address owner, Witness witness, bytes signature)",
]);
const ERRORS = parseAbi([
  "error Error(string)",
  "error InvalidAmount(uint256 maxAmount)",
  "error LengthMismatch()",
  "error SignatureExpired(uint256 signatureDeadline)",
  "error InvalidNonce()",
  "error InvalidSignatureLength()",
  "error InvalidSignature()",
  "error InvalidSigner()",
  "error InvalidContractSignature()",
]);
const DOMAIN = { name: "Permit2", chainId: CHAIN_ID, verifyingContract: PERMIT2 };
const TOKEN_PERMISSIONS = [
  { name: "token", type: "address" },
  { name: "amount", type: "uint256" },
];
const ORDER = [{ name: "id", type: "uint256" }];
const ORDER_TYPE_STRING = "Order order)Order(uint256 id)TokenPermissions(address token,uint256 amount)";
const CURVE_ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
const ALL_NONCES = 2n ** 256n - 1n;

const error = (errorName, ...args) => encodeErrorResult({ abi: ERRORS, errorName, args });
const FAILED_TRANSFER = error("Error", "TRANSFER_FROM_FAILED");
const OK = "ok";

/** All cases, in the order in which they are run: each begins where the one before it ended. */
export function permit2Cases() {
  return [...singles(), ...signatures(), ...tokens(), ...batches(), ...witnesses(), ...wallets(), ...nonces(), ...odd(), ...proxies()];
}

/** Calls that are good as they are, for bending: with a witness and without, of one token and of many. */
export async function goodCalls(w) {
  const named = [...singles(), ...batches(), ...witnesses()].filter(({ name }) => ["transfer", "batch-all", "witness-good", "witness-batch"].includes(name));
  return Promise.all(named.map(({ steps: [step] }) => step(w)));
}

// ---- permits and signatures

function permitOf(w, changes = {}) {
  return { token: w.token, amount: 100n, spender: w.spender.address, nonce: w.freshNonce(), deadline: w.time + 600n, ...changes };
}

/** `permitted` and the witness go by the types of the message: one or many, with or without. */
async function signed(signer, permit, { batch, witness, domain = DOMAIN } = {}) {
  const primaryType = `Permit${batch ? "Batch" : ""}${witness ? "Witness" : ""}TransferFrom`;
  const types = {
    [primaryType]: [
      { name: "permitted", type: `TokenPermissions${batch ? "[]" : ""}` },
      { name: "spender", type: "address" },
      { name: "nonce", type: "uint256" },
      { name: "deadline", type: "uint256" },
      ...(witness ? [{ name: witness.name, type: witness.type }] : []),
    ],
    TokenPermissions: TOKEN_PERMISSIONS,
    ...(witness ? { [witness.type]: witness.fields } : {}),
  };
  const { spender, nonce, deadline } = permit;
  const permitted = batch ?? { token: permit.token, amount: permit.amount };
  const message = { permitted, spender, nonce, deadline, ...(witness ? { [witness.name]: witness.value } : {}) };
  return signer.signTypedData({ domain, types, primaryType, message });
}

function permitArgument({ token, amount, nonce, deadline }) {
  return { permitted: { token, amount }, nonce, deadline };
}

/** A transfer by the spender, signed by the payer where nothing else is said. */
async function transfer(w, permit, { signer = w.payer, owner = signer.address, to = w.payee, amount = permit.amount, from, signature, domain } = {}) {
  const bytes = signature ?? (await signed(signer, permit, { domain }));
  const data = call(SINGLE, "permitTransferFrom", [permitArgument(permit), { to, requestedAmount: amount }, owner, bytes]);
  return { from, to: PERMIT2, data };
}

/** A case of one transfer of a permit with these changes. */
function one(name, expect, changes = () => ({}), options = () => ({})) {
  return { name, expect, steps: [async (w) => {
    const permit = permitOf(w, changes(w));
    return transfer(w, permit, await options(w, permit));
  }] };
}

function compact(signature) {
  const vs = hexToBigInt(slice(signature, 32, 64)) | (BigInt(Number(slice(signature, 64)) - 27) << 255n);
  return concatHex([slice(signature, 0, 32), numberToHex(vs, { size: 32 })]);
}

function twin(signature) {
  const s = numberToHex(CURVE_ORDER - hexToBigInt(slice(signature, 32, 64)), { size: 32 });
  return concatHex([slice(signature, 0, 32), s, numberToHex(55 - Number(slice(signature, 64)))]);
}

// ---- the cases

function singles() {
  let kept;
  return [
    { name: "transfer", expect: OK, steps: [async (w) => transfer(w, (kept = permitOf(w)))] },
    { name: "replay", expect: error("InvalidNonce"), steps: [(w) => transfer(w, kept)] },
    one("part", OK, undefined, () => ({ amount: 40n })),
    one("nothing", OK, undefined, () => ({ amount: 0n })),
    one("above-permitted", error("InvalidAmount", 100n), undefined, () => ({ amount: 101n })),
    one("last-second", OK, (w) => ({ deadline: w.time })),
    { ...one("expired", null, (w) => ({ deadline: w.time - 1n })), expect: (w) => error("SignatureExpired", w.time - 1n) },
    one("other-spender", error("InvalidSigner"), undefined, (w) => ({ from: w.stranger })),
    one("other-chain", error("InvalidSigner"), undefined, () => ({ domain: { ...DOMAIN, chainId: 1 } })),
    one("other-contract", error("InvalidSigner"), undefined, (w) => ({ domain: { ...DOMAIN, verifyingContract: w.nowhere } })),
    one("to-nobody", OK, undefined, () => ({ to: pad("0x", { size: 20 }) })),
  ];
}

function signatures() {
  const remade = (remake) => async (w, permit) => ({ signature: remake(await signed(w.payer, permit)) });
  const v = (value) => remade((signature) => concatHex([slice(signature, 0, 64), numberToHex(value, { size: 1 })]));
  return [
    one("compact", OK, undefined, remade(compact)),
    one("twin", OK, undefined, remade(twin)),
    one("other-signer", error("InvalidSigner"), undefined, async (w, permit) => ({ signature: await signed(w.stranger, permit) })),
    one("owner-zero", error("InvalidSigner"), undefined, () => ({ owner: pad("0x", { size: 20 }) })),
    ...[0, 1, 26, 29, 255].map((value) => one(`v-${value}`, error("InvalidSignature"), undefined, v(value))),
    ...[0, 1, 32, 63, 66, 96, 130].map((size) =>
      one(`length-${size}`, error("InvalidSignatureLength"), undefined, () => ({ signature: size === 0 ? "0x" : numberToHex(7n, { size }) })),
    ),
    ...[64, 65].map((size) => one(`zeros-${size}`, error("InvalidSignature"), undefined, () => ({ signature: pad("0x", { size }) }))),
  ];
}

function tokens() {
  const set = (name, functionName, ...args) => async (w) => ({ to: w.tokens[name], data: call(TOKEN_ABI, functionName, args) });
  const after = (step, test, ...later) => ({ ...test, steps: [step, ...test.steps, ...later] });
  const of = (name) => (w) => ({ token: w.tokens[name] });
  let permit;
  return [
    one("more-than-held", FAILED_TRANSFER, () => ({ amount: 10n ** 30n })),
    one("no-allowance", FAILED_TRANSFER, undefined, (w) => ({ signer: w.stranger })),
    one("token-without-code", OK, (w) => ({ token: w.nowhere })),
    one("answers-nothing", OK, (w) => ({ token: w.odd.answersNothing })),
    one("token-without-transfer-from", FAILED_TRANSFER, () => ({ token: EXACT_PROXY })),
    one("fee", OK, of("FeeToken")),
    one("false-token", OK, of("ReturnsFalseToken")),
    after(set("ReturnsFalseToken", "setRefusing", true), one("false", FAILED_TRANSFER, of("ReturnsFalseToken"))),
    after(set("PausableToken", "setPaused", true), one("paused", FAILED_TRANSFER, of("PausableToken"))),
    after(set("ReturnBombToken", "setAnswerBytes", 100_000n), one("long-answer", OK, of("ReturnBombToken"))),
    {
      name: "reentrant",
      expect: OK,
      steps: [
        async (w) => {
          // The token itself is the spender, and calls Permit2 with the same permit while the first call is under way.
          permit = permitOf(w, { token: w.tokens.ReentrantToken, spender: w.tokens.ReentrantToken });
          const { data } = await transfer(w, permit);
          return { to: permit.token, data: call(TOKEN_ABI, "setCallback", [PERMIT2, data]) };
        },
        async (w) => ({ to: permit.token, data: call(TOKEN_ABI, "transfer", [w.payee, 0n]) }),
      ],
    },
    one("answers-one", OK, (w) => ({ token: w.odd.answersOne })),
    ...["answersZero", "answersTwo", "answersAllBits", "answersOneByte", "revertsWithFourZeros"].map((odd) =>
      one(`token-${odd}`, FAILED_TRANSFER, (w) => ({ token: w.odd[odd] })),
    ),
  ];
}

function batches() {
  const pair = (w, changes = {}) => permitOf(w, { batch: [{ token: w.token, amount: 30n }, { token: w.tokens.FeeToken, amount: 40n }], ...changes });
  const send = async (w, permit, requested, { from, batch = permit.batch } = {}) => {
    const signature = await signed(w.payer, permit, { batch: permit.batch });
    const details = requested.map(([to, requestedAmount]) => ({ to, requestedAmount }));
    const data = call(BATCH, "permitTransferFrom", [{ permitted: batch, nonce: permit.nonce, deadline: permit.deadline }, details, w.payer.address, signature]);
    return { from, to: PERMIT2, data };
  };
  const batch = (name, expect, requested, changes = () => ({}), options = () => ({})) => ({
    name: `batch-${name}`,
    expect,
    steps: [async (w) => {
      const permit = pair(w, changes(w));
      return send(w, permit, requested(w), options(w, permit));
    }],
  });
  const both = (first, second) => (w) => [[w.payee, first], [w.second, second]];
  let kept;
  return [
    batch("all", OK, both(30n, 40n)),
    batch("part", OK, both(1n, 2n)),
    batch("zero-left-out", OK, both(0n, 40n)),
    batch("zero-of-no-token", OK, both(0n, 0n), (w) => ({ batch: [{ token: w.token, amount: 0n }, { token: EXACT_PROXY, amount: 0n }] })),
    batch("empty", OK, () => [], () => ({ batch: [] })),
    batch("short", error("LengthMismatch"), (w) => [[w.payee, 30n]]),
    batch("long", error("LengthMismatch"), (w) => [[w.payee, 30n], [w.payee, 40n], [w.payee, 0n]]),
    batch("above-first", error("InvalidAmount", 30n), both(31n, 40n)),
    batch("above-second", error("InvalidAmount", 40n), both(30n, 41n)),
    batch("other-spender", error("InvalidSigner"), both(30n, 40n), undefined, (w) => ({ from: w.stranger })),
    batch("reordered", error("InvalidSigner"), both(30n, 30n), undefined, (w, permit) => ({ batch: permit.batch.toReversed() })),
    batch("second-fails", FAILED_TRANSFER, both(30n, 10n ** 30n), (w) => ({
      batch: [{ token: w.token, amount: 30n }, { token: w.token, amount: 10n ** 30n }],
    })),
    { ...batch("expired", null, both(1n, 1n), (w) => ({ deadline: w.time - 1n })), expect: (w) => error("SignatureExpired", w.time - 1n) },
    { name: "batch-nonce", expect: error("InvalidNonce"), steps: [
      async (w) => send(w, (kept = pair(w)), both(1n, 1n)(w)),
      async (w) => send(w, kept, both(1n, 1n)(w)),
    ] },
  ];
}

function witnesses() {
  const order = (id) => ({ name: "order", type: "Order", fields: ORDER, value: { id } });
  const hash = (id) => hashStruct({ data: { id }, primaryType: "Order", types: { Order: ORDER } });
  const witness = (name, expect, { id = 7n, typeString = ORDER_TYPE_STRING, bare = false, batch } = {}) => ({
    name: `witness-${name}`,
    expect,
    steps: [async (w) => {
      const many = batch && [{ token: w.token, amount: 3n }, { token: w.token, amount: 4n }];
      const permit = permitOf(w);
      const signature = await signed(w.payer, permit, { batch: many, witness: bare ? undefined : order(7n) });
      const argument = many ? { permitted: many, nonce: permit.nonce, deadline: permit.deadline } : permitArgument(permit);
      const details = { to: w.payee, requestedAmount: 3n };
      const args = [argument, many ? [details, details] : details, w.payer.address, hash(id), typeString, signature];
      return { to: PERMIT2, data: call(many ? BATCH_WITNESS : SINGLE_WITNESS, "permitWitnessTransferFrom", args) };
    }],
  });
  return [
    witness("good", OK),
    witness("other", error("InvalidSigner"), { id: 8n }),
    witness("type-misnamed", error("InvalidSigner"), { typeString: ORDER_TYPE_STRING.replace("order)", "cart)") }),
    witness("type-empty", error("InvalidSigner"), { typeString: "" }),
    witness("not-signed", error("InvalidSigner"), { bare: true }),
    witness("batch", OK, { batch: true }),
    witness("batch-other", error("InvalidSigner"), { batch: true, id: 8n }),
    witness("batch-type-misnamed", error("InvalidSigner"), { batch: true, typeString: ORDER_TYPE_STRING.replace("id)", "no)") }),
  ];
}

function wallets() {
  const of = (name) => (w) => ({ owner: w.odd[name] });
  const no = error("InvalidContractSignature");
  return [
    one("wallet", OK, undefined, (w) => ({ owner: w.wallet })),
    one("wallet-other-signer", no, undefined, async (w, permit) => ({ owner: w.wallet, signature: await signed(w.stranger, permit) })),
    one("wallet-any-length", no, undefined, (w) => ({ owner: w.wallet, signature: "0x" })),
    one("wallet-answersZero", no, undefined, of("answersZero")),
    // None of these is a bytes4.
    ...["answersNothing", "answersOne", "answersAllBits", "answersOneByte"].map((odd) => one(`wallet-${odd}`, "0x", undefined, of(odd))),
    one("wallet-reverts", "0x00000000", undefined, of("revertsWithFourZeros")),
    one("delegated", OK, undefined, (w) => ({ signer: w.delegated })),
    one("delegated-other-signer", no, undefined, async (w, permit) => ({ owner: w.delegated.address, signature: await signed(w.payer, permit) })),
    // Its key signed, and recovery would take these 64 bytes; the wallet does not.
    one("delegated-compact", no, undefined, async (w, permit) => ({ owner: w.delegated.address, signature: compact(await signed(w.delegated, permit)) })),
  ];
}

function nonces() {
  const invalidate = (word, mask) => async (w) => ({ from: w.payer, to: PERMIT2, data: call(PERMIT2_ABI, "invalidateUnorderedNonces", [word, mask]) });
  const bit = (nonce) => [nonce >> 8n, 1n << (nonce & 255n)];
  const after = (step, test) => ({ ...test, steps: [step, ...test.steps] });
  const used = error("InvalidNonce");
  return [
    after(invalidate(...bit(5n)), one("taken-back", used, () => ({ nonce: 5n }))),
    // Taking back another of the same word does not give it back.
    after(invalidate(...bit(8n)), one("taken-back-still", used, () => ({ nonce: 5n }))),
    one("neighbour", OK, () => ({ nonce: 6n })),
    one("next-word", OK, () => ({ nonce: 256n + 5n })),
    one("last-nonce", OK, () => ({ nonce: ALL_NONCES })),
    one("last-nonce-again", used, () => ({ nonce: ALL_NONCES })),
    after(invalidate(9n, ALL_NONCES), one("word-taken-back", used, () => ({ nonce: 9n * 256n + 200n }))),
    // Taking back is by whatever word is named, also one that no nonce leads to.
    { name: "taken-back-nowhere", expect: OK, steps: [invalidate(ALL_NONCES, 1n)] },
  ];
}

/** Call data that no client makes. */
function odd() {
  const bent = (name, expect, bend) => ({ name: `odd-${name}`, expect, steps: [async (w) => bend(await transfer(w, permitOf(w)))] });
  const word = (data, index, value) => concatHex([slice(data, 0, 4 + 32 * index), value, slice(data, 4 + 32 * (index + 1))]);
  return [
    bent("value", "0x", (tx) => ({ ...tx, value: 1n })),
    bent("selector", "0x", (tx) => ({ ...tx, data: concatHex([keccak256(toHex("no()")).slice(0, 10), slice(tx.data, 4)]) })),
    bent("empty", "0x", (tx) => ({ ...tx, data: "0x" })),
    bent("cut", "0x", (tx) => ({ ...tx, data: slice(tx.data, 0, 4 + 32 * 7) })),
    bent("cut-in-signature", "0x", (tx) => ({ ...tx, data: slice(tx.data, 0, 4 + 32 * 9 + 1) })),
    bent("dirty-token", "0x", (tx) => ({ ...tx, data: word(tx.data, 0, concatHex(["0x01", slice(tx.data, 5, 36)])) })),
    bent("dirty-owner", "0x", (tx) => ({ ...tx, data: word(tx.data, 6, concatHex(["0x01", slice(tx.data, 4 + 193, 4 + 224)])) })),
    bent("dirty-destination", "0x", (tx) => ({ ...tx, data: word(tx.data, 4, concatHex(["0x01", slice(tx.data, 4 + 129, 4 + 160)])) })),
    bent("far-signature", "0x", (tx) => ({ ...tx, data: word(tx.data, 7, numberToHex(2n ** 255n, { size: 32 })) })),
    bent("long-signature", "0x", (tx) => ({ ...tx, data: word(tx.data, 8, numberToHex(2n ** 255n, { size: 32 })) })),
    bent("more-behind", OK, (tx) => ({ ...tx, data: concatHex([tx.data, "0x0102"]) })),
  ];
}

/** Our proxies in front of it. */
function proxies() {
  const settle = (name, expect, { proxy, abi, witness, extra = () => [], from, payee }) => ({
    name,
    expect,
    steps: [async (w) => {
      const permit = permitOf(w, { spender: proxy });
      const signedWitness = witness(w, w.payee);
      const signature = await signed(w.payer, permit, { witness: { name: "witness", type: "Witness", ...signedWitness } });
      const value = payee ? witness(w, payee(w)).value : signedWitness.value;
      const args = [permitArgument(permit), ...extra(permit), w.payer.address, value, signature];
      return { from: from?.(w), to: proxy, data: call(abi, "settle", args) };
    }],
  });
  const exact = {
    proxy: EXACT_PROXY,
    abi: EXACT_ABI,
    witness: (w, to) => ({ fields: [{ name: "to", type: "address" }, { name: "validAfter", type: "uint256" }], value: { to, validAfter: 0n } }),
  };
  const upto = {
    proxy: UPTO_PROXY,
    abi: UPTO_ABI,
    extra: () => [60n],
    witness: (w, to) => ({
      fields: [{ name: "to", type: "address" }, { name: "facilitator", type: "address" }, { name: "validAfter", type: "uint256" }],
      value: { to, facilitator: w.spender.address, validAfter: 0n },
    }),
  };
  return [
    settle("exact", OK, { ...exact, from: (w) => w.stranger }),
    settle("exact-redirected", error("InvalidSigner"), { ...exact, payee: (w) => w.second }),
    settle("upto", OK, upto),
    settle("upto-redirected", error("InvalidSigner"), { ...upto, payee: (w) => w.second }),
  ];
}
