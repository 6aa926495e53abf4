/** What a build adds to the page: the licences of the packages in it, and what it was built from. */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Plugin } from "vite";

/** Everything that a build depends on, beside the packages that the lock names. Tests do not change what is built. */
const SOURCES = [".npmrc", "index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts"];
const SOURCE_FOLDERS = ["public", "src", "tooling"];
const TEST = /\.test\.tsx?$/;

const LICENCE_NAME = /^licen[cs]e(\.|$)/i;

interface Manifest {
  name: string;
  version: string;
  license?: string;
  dependencies?: Record<string, string>;
}

/** A package in the bundle, as `BUILD.json` has it. */
interface BundledPackage {
  name: string;
  version: string;
  licence: string;
  /** The hash of its archive, from the lock. */
  integrity: string;
  requires: string[];
}

/** Write `BUILD.json` and `assets/licenses.txt` beside the built files. `root` is the folder of `package.json`. */
export function describeBuild(root: string): Plugin {
  return {
    name: "describe-build",
    apply: "build",
    generateBundle() {
      const found = [...this.getModuleIds()].map(findPackageFolder).filter((each) => each !== null);
      const folders = [...new Set(found)].sort((one, other) => (findLockKey(one) < findLockKey(other) ? -1 : 1));
      const built = { sources: digestSources(root), packages: describePackages(root, folders) };
      this.emitFile({ type: "asset", fileName: "BUILD.json", source: `${JSON.stringify(built, null, 2)}\n` });
      this.emitFile({ type: "asset", fileName: "assets/licenses.txt", source: formatLicences(folders) });
    },
  };
}

/** The digest of all sources: SHA-256 of a line for each, its path and its own SHA-256, by path. */
export function digestSources(root: string): string {
  const folders = SOURCE_FOLDERS.filter((folder) => existsSync(join(root, folder)));
  const files = [...SOURCES, ...folders.flatMap((folder) => listFiles(root, folder))];
  const lines = files
    .filter((path) => !TEST.test(path))
    .sort()
    .map((path) => `${path} ${hash(readFileSync(join(root, path)))}\n`);
  return hash(lines.join(""));
}

/** The folder of the package that has a module; null for our own modules, and for those that the tools make up. */
export function findPackageFolder(id: string): string | null {
  const match = /^(.*[\\/]node_modules[\\/](?:@[^\\/]+[\\/])?[^\\/]+)[\\/]/.exec(id.replace(/^\0+/, ""));
  return match?.[1] ?? null;
}

/** The place of a package in the lock, which is the same wherever the folder of the page lies. */
export function findLockKey(folder: string): string {
  const path = folder.replaceAll("\\", "/");
  return path.slice(path.indexOf("node_modules/"));
}

function describePackages(root: string, folders: string[]): BundledPackage[] {
  const lock = readJson<{ packages: Record<string, { integrity?: string }> }>(join(root, "package-lock.json"));
  const names = new Set(folders.map((folder) => readManifest(folder).name));
  return folders.map((folder) => {
    const { name, version, license, dependencies } = readManifest(folder);
    const integrity = lock.packages[findLockKey(folder)]?.integrity;
    if (license === undefined) throw new Error(`${name}: states no licence`);
    if (integrity === undefined) throw new Error(`${name}: package-lock.json has no hash of it`);
    const requires = Object.keys(dependencies ?? {}).filter((each) => names.has(each));
    return { name, version, licence: license, integrity, requires: requires.sort() };
  });
}

function formatLicences(folders: string[]): string {
  const texts = folders.map((folder) => {
    const { name, version, license } = readManifest(folder);
    const file = readdirSync(folder).find((each) => LICENCE_NAME.test(each));
    if (file === undefined) throw new Error(`${name}: has no file with its licence`);
    const text = readFileSync(join(folder, file), "utf8").replaceAll("\r\n", "\n").trim();
    return `${name} ${version} (${license})\n\n${text}\n`;
  });
  const head = "This page of streamd contains the packages below, each under its own licence.\n";
  return [head, ...texts].join(`\n${"-".repeat(80)}\n\n`);
}

function listFiles(root: string, folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? listFiles(root, `${folder}/${entry.name}`) : [`${folder}/${entry.name}`],
  );
}

function hash(content: string | Buffer): string {
  return createHash("sha256").update(content).digest("hex");
}

function readManifest(folder: string): Manifest {
  return readJson<Manifest>(join(folder, "package.json"));
}

function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(path, "utf8")) as T;
}
