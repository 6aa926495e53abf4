import { expect, it } from "vitest";
import type { AlertRule, FleetAlert } from "../../wire/types";
import { listProblems } from "./problems";
import { makeServer } from "./samples";

const rule = { rule: "disk_fills", target: "disk_usage", unit: "percent", above: 90 } as AlertRule;
const rules = new Map([["disk_fills", rule]]);
const alert = (change: Partial<FleetAlert> = {}): FleetAlert => ({
  rule: "disk_fills",
  state: "firing",
  severity: "warning",
  starts_at: 400,
  silenced_until: null,
  ...change,
});
const texts = (...parts: Parameters<typeof makeServer>) =>
  listProblems(makeServer(...parts), rules, 1000).map(({ text, detail }) => text + detail);

it("finds nothing wrong with a server that is current", () => {
  expect(texts("a")).toEqual([]);
});

it("says what an alert is about, and for how long it fires", () => {
  expect(texts("a", { alerts: [alert()] })).toEqual(["disk_usage reaches 90 %, firing for 10 min"]);
});

it("names the rule of an alert whose rule is not known", () => {
  expect(texts("a", { alerts: [alert({ rule: "other" })] })).toEqual(["other, firing for 10 min"]);
});

it("puts firing alerts by severity first, then pending ones, then silenced ones, then the condition", () => {
  const alerts = [
    alert({ rule: "w-silenced", severity: "critical", silenced_until: 4600 }),
    alert({ rule: "pending", state: "pending", starts_at: null, severity: "critical" }),
    alert({ rule: "info", severity: "info" }),
    alert({ rule: "critical", severity: "critical" }),
    alert({ rule: "gone", state: "resolved" }),
  ];
  const found = listProblems(makeServer("a", { alerts, condition: "stale", origin: 400 }), rules, 1000);
  expect(found.map(({ text }) => text.split(/[ ,]/)[0])).toEqual(["critical", "info", "pending", "w-silenced", "stale"]);
  expect(found.map(({ tone }) => tone)).toEqual(["critical", "info", "neutral", "muted", "warning"]);
});

it("says how far a window is, and how old a stale one", () => {
  expect(texts("a", { condition: "warming", have: 12 })).toEqual(["warming, 12 of 48 rows"]);
  expect(texts("a", { condition: "stale", origin: -1400 })).toEqual(["stale for 40 min"]);
  expect(texts("a", { condition: "pending" })).toEqual(["no forecast yet"]);
});

it("names two missing targets, and counts the others", () => {
  expect(texts("a", { missing: ["net_in"] })).toEqual(["missing net_in"]);
  expect(texts("a", { missing: ["net_in", "net_out", "mem_used", "cpu_user"] })).toEqual([
    "missing net_in, net_out and 2 more",
  ]);
  expect(texts("a", { missing: ["net_in", "net_out"] })).toEqual(["missing net_in and net_out"]);
});

it("says in short what an alert is about, and that it is silenced", () => {
  const alerts = [alert(), alert({ silenced_until: 4600 })];
  expect(listProblems(makeServer("a", { alerts }), rules, 1000).map(({ text }) => text)).toEqual([
    "disk_usage reaches 90 %",
    "disk_usage reaches 90 %, silenced",
  ]);
});
