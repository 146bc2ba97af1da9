import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

// This folder is a project of its own, whatever lockfiles lie above it.
const root = dirname(fileURLToPath(import.meta.url));

/** @type {import("next").NextConfig} */
export default { outputFileTracingRoot: root, turbopack: { root } };
