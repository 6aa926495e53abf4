/** What is wrong with a server now, in words, worst first. */
import { describeThreshold } from "../../format/crossings";
import { formatDuration, formatTime } from "../../format/times";
import type { Tone } from "../../ui/basics";
import type { AlertRule, FleetAlert, FleetServer, Severity } from "../../wire/types";
import { describeAge } from "./crossings";

export interface Problem {
  tone: Tone;
  /** In short, as where there is little space. */
  text: string;
  /** How the text goes on. */
  detail: string;
  /** More, for a tooltip. */
  title: string;
}

const RANKS: Record<Severity, number> = { critical: 0, warning: 1, info: 2 };

/** List the problems of a server. Rules give alerts their words; without a rule its name stands for it. */
export function listProblems(row: FleetServer, rules: ReadonlyMap<string, AlertRule>, now: number): Problem[] {
  const alerts = row.alerts.filter((alert) => alert.state !== "resolved").sort(compareAlerts);
  return [
    ...alerts.map((alert) => describeAlert(alert, rules, now)),
    ...describeCondition(row, now),
    ...describeMissing(row.missing),
  ];
}

function compareAlerts(one: FleetAlert, other: FleetAlert): number {
  return rank(one) - rank(other) || one.rule.localeCompare(other.rule);
}

function rank(alert: FleetAlert): number {
  const silenced = alert.silenced_until !== null ? 10 : 0;
  return silenced + (alert.state === "firing" ? 0 : 5) + RANKS[alert.severity];
}

function describeAlert(alert: FleetAlert, rules: ReadonlyMap<string, AlertRule>, now: number): Problem {
  const rule = rules.get(alert.rule);
  const words = rule === undefined ? alert.rule : describeThreshold(rule);
  const title = `Rule ${alert.rule}, ${alert.severity}`;
  if (alert.silenced_until !== null)
    return { tone: "muted", text: `${words}, silenced`, detail: ` until ${formatTime(alert.silenced_until, now)}`, title };
  if (alert.state === "pending")
    return { tone: "neutral", text: `${words}, not confirmed yet`, detail: "", title: `${title}, pending` };
  const since = alert.starts_at === null ? "" : `, firing for ${describeAge(now - alert.starts_at)}`;
  return { tone: alert.severity, text: words, detail: since, title };
}

function describeCondition(row: FleetServer, now: number): Problem[] {
  if (row.condition === "stale") {
    const age = row.origin === null ? "" : ` for ${formatDuration(now - row.origin)}`;
    return [{ tone: "warning", text: `stale${age}`, detail: "", title: "No newer row arrived in this time." }];
  }
  if (row.condition === "warming") {
    const title = "A server gets its first forecast when its window has enough rows.";
    return [{ tone: "info", text: "warming", detail: `, ${row.have} of ${row.need} rows`, title }];
  }
  if (row.condition === "pending") {
    const title = "Its forecast is on the way, or comes with the next row.";
    return [{ tone: "info", text: "no forecast yet", detail: "", title }];
  }
  return [];
}

function describeMissing(missing: readonly string[]): Problem[] {
  if (missing.length === 0) return [];
  const [first, second] = missing;
  const detail = missing.length > 2 ? `, ${second} and ${missing.length - 2} more` : missing.length === 2 ? ` and ${second}` : "";
  const title = `No value in the newest rows: ${missing.join(", ")}`;
  return [{ tone: "warning", text: `missing ${first}`, detail, title }];
}
