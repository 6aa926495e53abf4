import { expect, it } from "vitest";
import { matchesGlob } from "../views/alerts/names";
import { formatCount, formatVersion, globOfName, showName } from "./names";

it.each([
  ["patch_tensorrt_20261129_232000", "patch_tensorrt, 30 Nov 00:20"],
  ["a_b_c_20261231_233000", "a_b_c, 1 Jan 00:30"],
  ["no_time_20269999_000000", "no_time_20269999_000000"],
  ["my-own-model", "my-own-model"],
])("writes the version %s as %s", (version, expected) => expect(formatVersion(version)).toBe(expected));

it("counts in words", () => {
  expect([formatCount(1, "server"), formatCount(1204, "server"), formatCount(2, "battery", "batteries")]).toEqual([
    "1 server",
    "1,204 servers",
    "2 batteries",
  ]);
});

it.each([
  ["web-01.example", "web-01.example"],
  ["a b", "a b"],
  ["Ünïcødé 东京 😀", "Ünïcødé 东京 😀"],
  [" a  b ", "␣a␣␣b␣"],
  ["   ", "␣␣␣"],
  ["\u200b", "\\u200b"],
  ["\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"],
  ["line\nbreak\u0000\u00a0x", "line\\u000abreak\\u0000\\u00a0x"],
  ["\u{e0041}", "\\ue0041"],
])("shows all of the name %j", (name, shown) => expect(showName(name)).toBe(shown));

it.each([
  ["web-01", "web-01"],
  ["*", "[*]"],
  ["db[1]?", "db[[]1][?]"],
])("chooses only the server %s by a glob", (name, glob) => {
  expect(globOfName(name)).toBe(glob);
  expect([name, `${name}x`, "db1x", "web-02"].filter((each) => matchesGlob(each, glob))).toEqual([name]);
});
