// Sells with withX402 of x402-next: charged after the handler.
import { NextResponse } from "next/server";
import { withX402 } from "x402-next";
import { lazily } from "../../../sale.mjs";
import { termsV1 } from "../../../v1.mjs";

export const dynamic = "force-dynamic";

function selling(handler) {
  return lazily(() => {
    const { payTo, terms, facilitator } = termsV1();
    return withX402(handler, payTo, terms, facilitator);
  });
}

export const GET = selling(async () => NextResponse.json({ ok: true, server: "next-v1" }));
export const POST = selling(async (request) => NextResponse.json({ ok: true, server: "next-v1", received: await request.json() }));
