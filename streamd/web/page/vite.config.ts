/// <reference types="vitest/config" />
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import { describeBuild } from "./tooling/bundled";

// In development, `npm run dev` serves the page and passes every call on to this daemon.
const daemon = process.env["STREAMD_URL"] ?? "http://127.0.0.1:8002";

export default defineConfig({
  base: "./", // the page may be served below any path of a reverse proxy
  plugins: [describeBuild(fileURLToPath(new URL(".", import.meta.url)))],
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  build: {
    outDir: "../assets",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the Content-Security-Policy allows no inline script or style
    modulePreload: { polyfill: false },
    cssCodeSplit: false,
  },
  // The host stays that of the page: the daemon refuses a WebSocket of a page of another host.
  server: { proxy: { "/v1": { target: daemon, ws: true }, "/metrics": daemon } },
  test: {
    environment: "happy-dom",
    include: ["{src,tooling}/**/*.test.{ts,tsx}"],
    env: { TZ: "Europe/Berlin" },
    css: { include: /tokens\.css/ }, // a test reads its colours
  },
});
