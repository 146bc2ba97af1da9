// Sells `/paid` with x402-express, the v1 middleware. NETWORK is a v1 name such as `base-sepolia`.
import express from "express";
import { paymentMiddleware } from "x402-express";
import { report, saleFromEnvironment } from "../environment.mjs";

const { port, facilitator, payee, network, price, maxTimeoutSeconds } = saleFromEnvironment();
const terms = { price, network, config: { description: "interop", mimeType: "application/json", maxTimeoutSeconds } };

const app = express();
app.use(express.json());
app.get("/health", (_request, response) => response.json({ up: true }));
app.use(paymentMiddleware(payee, { "GET /paid": terms, "POST /paid": terms }, facilitator));
app.get("/paid", (_request, response) => response.json({ ok: true, server: "express-v1" }));
app.post("/paid", (request, response) => response.json({ ok: true, server: "express-v1", received: request.body }));
app.listen(port, "127.0.0.1", () => report({ ready: true, url: `http://127.0.0.1:${port}` }));
