// Sells with @x402/express: the paths of goods.mjs. `?charge=N` says what to charge of a ceiling.
import express from "express";
import { paymentMiddleware, setSettlementOverrides, x402ResourceServer } from "@x402/express";
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

const app = express();
app.use(express.json());
app.get("/health", (_request, response) => response.json({ up: true }));
app.use(paymentMiddleware(routes, server));
app.get(paths, (request, response) => {
  const { charge } = request.query;
  if (charge !== undefined) setSettlementOverrides(response, { amount: charge });
  response.json({ ok: true, server: "express-v2" });
});
app.post("/paid", (request, response) => response.json({ ok: true, server: "express-v2", received: request.body }));
app.listen(port, "127.0.0.1", () => report({ ready: true, url: `http://127.0.0.1:${port}` }));
