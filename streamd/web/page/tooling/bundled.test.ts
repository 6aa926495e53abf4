import { describe, expect, it } from "vitest";
import { digestSources, findLockKey, findPackageFolder } from "./bundled";

describe("findPackageFolder", () => {
  it("finds the package that has a module", () => {
    expect(findPackageFolder("/a/node_modules/uplot/dist/uPlot.esm.js")).toBe("/a/node_modules/uplot");
    expect(findPackageFolder("/a/node_modules/@preact/signals/dist/x.mjs?v=1")).toBe("/a/node_modules/@preact/signals");
    expect(findPackageFolder("\0/a/node_modules/preact/dist/x.js")).toBe("/a/node_modules/preact");
  });

  it("finds the inner one of two", () => {
    expect(findPackageFolder("/a/node_modules/b/node_modules/c/index.js")).toBe("/a/node_modules/b/node_modules/c");
  });

  it("finds none for what is ours or made up", () => {
    expect(findPackageFolder("/a/src/app.tsx")).toBeNull();
    expect(findPackageFolder("\0vite/preload-helper.js")).toBeNull();
  });
});

describe("findLockKey", () => {
  it("is the same wherever the folder lies", () => {
    expect(findLockKey("/a/b/node_modules/c/node_modules/@d/e")).toBe("node_modules/c/node_modules/@d/e");
    expect(findLockKey("C:\\a\\node_modules\\c")).toBe("node_modules/c");
  });
});

describe("digestSources", () => {
  it("is a SHA-256 that does not change by itself", () => {
    const digest = digestSources(process.cwd());
    expect(digest).toMatch(/^[0-9a-f]{64}$/);
    expect(digestSources(process.cwd())).toBe(digest);
  });
});
