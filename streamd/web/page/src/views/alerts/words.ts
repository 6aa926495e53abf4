/** Alerts, rules and silences in words. Times are epoch seconds. */
import { describeThreshold, describeWhen, formatUntil, isNow } from "../../format/crossings";
import { showName } from "../../format/names";
import { formatDuration, formatTime } from "../../format/times";
import { formatValue } from "../../format/values";
import type { Alert, AlertRule, CrossingTimes, Silence } from "../../wire/types";

/** Such as `disk_usage reaches 90 % within 4 h`. */
export function describeRule(rule: AlertRule): string {
  return `${describeThreshold(rule)} within ${formatDuration(rule.within_seconds)}`;
}

/** How sure a rule must be: `by the median forecast`, `with a chance of 10 %`. */
export function describeQuantile({ quantile, above }: { quantile: number; above?: number }): string {
  if (quantile === 0.5) return "by the median forecast";
  const chance = above === undefined ? quantile : 1 - quantile;
  return `with a chance of ${formatValue(chance * 100, "percent")} or more`;
}

/** What fires a rule and what ends its alert. */
export function describeDamping(rule: AlertRule): string {
  const margin = formatValue(rule.hysteresis, rule.unit);
  if (rule.for === 1) return `Fires at once; ends with the first forecast that stays ${margin} clear of it.`;
  return `Fires after ${rule.for} forecasts in a row; ends after as many that stay ${margin} clear of it.`;
}

/** The likely time until a threshold: `in 3 h 10 min`, `now`, `not likely`. */
export function describeLikely({ likely }: CrossingTimes, present: number): string {
  return likely === null ? "not likely" : describeWhen(likely, present);
}

/** The range around it: `2 h 40 min to 5 h`, `earliest 2 h 40 min, perhaps not at all`; empty where nothing is known. */
export function describeRange({ earliest, likely, latest }: CrossingTimes, present: number): string {
  const first = earliest ?? likely;
  if (first === null) return "";
  if (likely !== null && isNow(likely, present)) return latest === null ? "" : `latest ${describeWhen(latest, present)}`;
  const from = formatUntil(first, present);
  if (latest === null) return from === "now" ? "at any time, or not at all" : `earliest ${from}, perhaps not at all`;
  const to = formatUntil(latest, present);
  return from === to ? "quite sure" : `${from} to ${to}`;
}

/** The range with times of the clock, for a tooltip. */
export function describeClockTimes(times: CrossingTimes, present: number): string {
  const named = [
    ["earliest", times.earliest],
    ["likely", times.likely],
    ["latest", times.latest],
  ] as const;
  const shown = named.flatMap(([name, at]) => (at === null ? [] : [`${name} ${formatTime(at, present)}`]));
  return shown.length === 0 ? "No curve crosses within the forecast." : shown.join(", ");
}

const REASONS: Record<string, string> = {
  cleared: "the forecast is clear of the threshold again",
  unknown: "no value of it came for a whole window",
  silent: "no new forecast came",
  forgotten: "the server was forgotten",
  rule_changed: "the rule was changed or removed",
};

/** Why an alert ended. */
export function describeReason(alert: Alert): string {
  return REASONS[alert.reason] ?? alert.reason;
}

/** The servers of a rule or a silence: `all servers`, `db-*, web-01`. */
export function describeServers(servers: readonly string[]): string {
  return servers.includes("*") ? "all servers" : servers.map(showName).join(", ");
}

/** What a silence chooses: `disk_fills on db-*`. */
export function describeChoice({ servers, rules }: Pick<Silence, "servers" | "rules">): string {
  return `${rules === null ? "all rules" : rules.join(", ")} on ${describeServers(servers)}`;
}

/** A link of an annotation, if it is one that a browser may follow. */
export function findLink(text: string): string | null {
  try {
    const { protocol, href } = new URL(text);
    return protocol === "https:" || protocol === "http:" ? href : null;
  } catch {
    return null;
  }
}
