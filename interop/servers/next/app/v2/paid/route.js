// Sells with withX402 of @x402/next: charged after the handler.
import { NextResponse } from "next/server";
import { withX402 } from "@x402/next";
import { lazily } from "../../../sale.mjs";
import { termsV2 } from "../../../v2.mjs";

export const dynamic = "force-dynamic";

function selling(handler) {
  return lazily(() => {
    const { terms, server } = termsV2();
    return withX402(handler, terms, server);
  });
}

export const GET = selling(async () => NextResponse.json({ ok: true, server: "next-v2" }));
export const POST = selling(async (request) => NextResponse.json({ ok: true, server: "next-v2", received: await request.json() }));
