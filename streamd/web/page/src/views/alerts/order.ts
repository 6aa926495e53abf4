/** The order of alerts on call: what needs a person first. */
import type { Alert, Severity } from "../../wire/types";

const SEVERITY_RANKS: Record<Severity, number> = { critical: 0, warning: 1, info: 2 };

/** Whether a silence holds for an alert. */
export function isSilenced(alert: Alert, present: number): boolean {
  return (alert.silenced_until ?? 0) > present;
}

/** Firing before silenced before pending; then by severity, by the likely time, by the earliest, by name. */
export function rankAlerts(alerts: Iterable<Alert>, present: number): Alert[] {
  const ranked = Array.from(alerts, (alert) => rankOf(alert, present));
  return ranked.sort(compareRanks).map(({ alert }) => alert);
}

/** What decides about the place of an alert; found once for each, since a fleet may have thousands of them. */
interface Rank {
  alert: Alert;
  /** Group and severity in one number. */
  urgency: number;
  likely: number;
  earliest: number;
}

function rankOf(alert: Alert, present: number): Rank {
  const { likely, earliest } = alert.crosses_at;
  const group = isSilenced(alert, present) ? 1 : alert.state === "firing" ? 0 : 2;
  const urgency = group * 10 + (SEVERITY_RANKS[alert.severity] ?? 3);
  return { alert, urgency, likely: likely ?? Infinity, earliest: earliest ?? Infinity };
}

function compareRanks(a: Rank, b: Rank): number {
  if (a.urgency !== b.urgency) return a.urgency - b.urgency;
  if (a.likely !== b.likely) return a.likely < b.likely ? -1 : 1;
  if (a.earliest !== b.earliest) return a.earliest < b.earliest ? -1 : 1;
  return compareNames(a.alert, b.alert);
}

function compareNames(a: Alert, b: Alert): number {
  if (a.server !== b.server) return a.server < b.server ? -1 : 1;
  return a.rule < b.rule ? -1 : 1;
}
