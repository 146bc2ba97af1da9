// Sells `/paid` with @x402/express.
import express from "express";
import { paymentMiddleware, x402ResourceServer } from "@x402/express";
import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { report, saleFromEnvironment } from "../environment.mjs";

const { port, facilitatorUrl, payee, network, price } = saleFromEnvironment();
const terms = { accepts: { scheme: "exact", network, payTo: payee, price }, description: "interop", mimeType: "application/json" };
const server = new x402ResourceServer(new HTTPFacilitatorClient({ url: facilitatorUrl })).register(network, new ExactEvmScheme());

const app = express();
app.use(express.json());
app.get("/health", (_request, response) => response.json({ up: true }));
app.use(paymentMiddleware({ "GET /paid": terms, "POST /paid": terms }, server));
app.get("/paid", (_request, response) => response.json({ ok: true, server: "express-v2" }));
app.post("/paid", (request, response) => response.json({ ok: true, server: "express-v2", received: request.body }));
app.listen(port, "127.0.0.1", () => report({ ready: true, url: `http://127.0.0.1:${port}` }));
