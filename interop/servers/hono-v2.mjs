// Sells `/paid` with @x402/hono.
import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { paymentMiddleware, x402ResourceServer } from "@x402/hono";
import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { report, saleFromEnvironment } from "../environment.mjs";

const { port, facilitatorUrl, payee, network, price } = saleFromEnvironment();
const terms = { accepts: { scheme: "exact", network, payTo: payee, price }, description: "interop", mimeType: "application/json" };
const server = new x402ResourceServer(new HTTPFacilitatorClient({ url: facilitatorUrl })).register(network, new ExactEvmScheme());

const app = new Hono();
app.get("/health", (context) => context.json({ up: true }));
app.use(paymentMiddleware({ "GET /paid": terms, "POST /paid": terms }, server));
app.get("/paid", (context) => context.json({ ok: true, server: "hono-v2" }));
app.post("/paid", async (context) => context.json({ ok: true, server: "hono-v2", received: await context.req.json() }));
serve({ fetch: app.fetch, port, hostname: "127.0.0.1" }, () => report({ ready: true, url: `http://127.0.0.1:${port}` }));
