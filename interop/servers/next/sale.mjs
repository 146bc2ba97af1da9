// What this app sells, to whom the money goes and who settles: read when the first request comes, since `next build` knows
// none of it. Like saleFromEnvironment of environment.mjs, which is outside what Next bundles.

/** The sale in the words of a version, `v1` or `v2`. */
export function saleOf(version) {
  const { FACILITATOR_URL: url, FACILITATOR_KEY: key, PAYEE: payTo, PRICE: price, MAX_TIMEOUT_S: maxTimeout } = process.env;
  const headers = { Authorization: `Bearer ${key}` };
  const createAuthHeaders = async () => ({ verify: headers, settle: headers, supported: headers });
  return {
    facilitator: key === undefined ? { url } : { url, createAuthHeaders },
    network: version === "v1" ? process.env.NETWORK_V1 : process.env.NETWORK,
    payTo,
    price,
    maxTimeoutSeconds: maxTimeout === undefined ? undefined : Number(maxTimeout),
  };
}

/** Makes something once, at the first call of what is returned. */
export function lazily(make) {
  let made;
  return (...args) => (made ??= make())(...args);
}
