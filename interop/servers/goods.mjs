// What the TypeScript v2 servers here sell: one path for each way to pay. servers/goods.py has the same.
import { declareEip2612GasSponsoringExtension, declareErc20ApprovalGasSponsoringExtension } from "@x402/extensions";
import { required, saleFromEnvironment } from "../environment.mjs";

/** The routes for a payment middleware, and the paths that have to be answered. */
export function goodsFromEnvironment() {
  const { payee: payTo, network, price, maxTimeoutSeconds } = saleFromEnvironment();
  const asset = required("TOKEN");
  const described = { description: "interop", mimeType: "application/json" };
  const domain = { name: "USDC", version: "2" };
  const permit2 = (scheme, amount, extra) => {
    return { scheme, network, payTo, price: { amount, asset, extra: { assetTransferMethod: "permit2", ...extra } } };
  };
  const tokenPermit = declareEip2612GasSponsoringExtension();
  // Clients sign a whole approval only where the 402 does not say the domain that a token permit would need.
  const approval = declareErc20ApprovalGasSponsoringExtension();
  const goods = { "/paid": { ...described, accepts: { scheme: "exact", network, payTo, price, maxTimeoutSeconds } } };
  for (const [path, scheme, amount] of [["/permit2", "exact", required("AMOUNT")], ["/upto", "upto", required("CEILING")]]) {
    goods[path] = { ...described, accepts: permit2(scheme, amount, domain) };
    goods[`${path}-eip2612`] = { ...described, accepts: permit2(scheme, amount, domain), extensions: tokenPermit };
    goods[`${path}-approval`] = { ...described, accepts: permit2(scheme, amount, {}), extensions: approval };
  }
  const paths = Object.keys(goods);
  const routes = Object.fromEntries(paths.map((path) => [`GET ${path}`, goods[path]]));
  return { routes: { ...routes, "POST /paid": goods["/paid"] }, paths };
}
