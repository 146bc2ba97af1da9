// Sells with @x402/hono: the paths of goods.mjs. `?charge=N` says what to charge of a ceiling.
import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { paymentMiddleware, setSettlementOverrides, x402ResourceServer } from "@x402/hono";
import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { UptoEvmScheme } from "@x402/evm/upto/server";
import { report, saleFromEnvironment } from "../environment.mjs";
import { goodsFromEnvironment } from "./goods.mjs";

const { port, facilitator, network } = saleFromEnvironment();
const { routes, paths } = goodsFromEnvironment();
const server = new x402ResourceServer(new HTTPFacilitatorClient(facilitator))
  .register(network, new ExactEvmScheme())
  .register(network, new UptoEvmScheme());

const app = new Hono();
app.get("/health", (context) => context.json({ up: true }));
app.use(paymentMiddleware(routes, server));
for (const path of paths) {
  app.get(path, (context) => {
    const charge = context.req.query("charge");
    if (charge !== undefined) setSettlementOverrides(context, { amount: charge });
    return context.json({ ok: true, server: "hono-v2" });
  });
}
app.post("/paid", async (context) => context.json({ ok: true, server: "hono-v2", received: await context.req.json() }));
serve({ fetch: app.fetch, port, hostname: "127.0.0.1" }, () => report({ ready: true, url: `http://127.0.0.1:${port}` }));
