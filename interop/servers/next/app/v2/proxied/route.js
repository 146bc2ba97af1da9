// Sold by proxy.js.
export const dynamic = "force-dynamic";

export function GET() {
  return Response.json({ ok: true, server: "next-proxy-v2" });
}
