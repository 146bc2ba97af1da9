// Sells `/paid` with x402-hono, the v1 middleware. NETWORK is a v1 name such as `base-sepolia`.
import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { paymentMiddleware } from "x402-hono";
import { report, saleFromEnvironment } from "../environment.mjs";

const { port, facilitator, payee, network, price, maxTimeoutSeconds } = saleFromEnvironment();
const terms = { price, network, config: { description: "interop", mimeType: "application/json", maxTimeoutSeconds } };

const app = new Hono();
app.get("/health", (context) => context.json({ up: true }));
app.use(paymentMiddleware(payee, { "GET /paid": terms, "POST /paid": terms }, facilitator));
app.get("/paid", (context) => context.json({ ok: true, server: "hono-v1" }));
app.post("/paid", async (context) => context.json({ ok: true, server: "hono-v1", received: await context.req.json() }));
serve({ fetch: app.fetch, port, hostname: "127.0.0.1" }, () => report({ ready: true, url: `http://127.0.0.1:${port}` }));
