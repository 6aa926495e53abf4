/** What the view shows: its part and its filters, as the address has them. */
import type { ViewQuery } from "../../routing";
import type { Alert, Severity } from "../../wire/types";
import { matchesSearch } from "./names";
import { isSilenced } from "./order";

const PARTS = ["active", "history", "silences", "rules"] as const;
export type Part = (typeof PARTS)[number];

/** `silenced`: pending or firing, and no receiver is notified. */
export type Standing = "firing" | "pending" | "silenced";
export const STANDINGS: readonly Standing[] = ["firing", "pending", "silenced"];
export const SEVERITIES: readonly Severity[] = ["critical", "warning", "info"];

export interface Filters {
  part: Part;
  /** A part of the server's name, or a glob. */
  server: string;
  /** Empty: all. */
  rule: string;
  severity: Severity | "";
  standing: Standing | "";
}

/** Read the state of the view; what it does not know is left out. */
export function readFilters(query: ViewQuery): Filters {
  return {
    part: PARTS.find((each) => each === query["show"]) ?? "active",
    server: query["server"] ?? "",
    rule: query["rule"] ?? "",
    severity: SEVERITIES.find((each) => each === query["severity"]) ?? "",
    standing: STANDINGS.find((each) => each === query["state"]) ?? "",
  };
}

/** A change of the state as the address has it; defaults are left out. */
export function writeFilters({ part, standing, ...same }: Partial<Filters>): ViewQuery {
  return {
    ...same,
    ...(part === undefined ? {} : { show: part === "active" ? "" : part }),
    ...(standing === undefined ? {} : { state: standing }),
  };
}

/** What an active alert counts as. */
export function standingOf(alert: Alert, present: number): Standing {
  if (isSilenced(alert, present)) return "silenced";
  return alert.state === "firing" ? "firing" : "pending";
}

/** Whether the filters choose an alert; those of resolved alerts have no standing. */
export function isChosen(alert: Alert, filters: Filters, present: number): boolean {
  return (
    (filters.rule === "" || alert.rule === filters.rule) &&
    (filters.severity === "" || alert.severity === filters.severity) &&
    (filters.standing === "" || alert.state === "resolved" || standingOf(alert, present) === filters.standing) &&
    matchesSearch(alert.server, filters.server)
  );
}

/** Whether anything is filtered. */
export function hasFilters({ server, rule, severity, standing }: Filters): boolean {
  return server !== "" || rule !== "" || severity !== "" || standing !== "";
}

/** How many active alerts stand how. */
export function countStandings(alerts: Iterable<Alert>, present: number): Record<Standing, number> {
  const counts = { firing: 0, pending: 0, silenced: 0 };
  for (const alert of alerts) counts[standingOf(alert, present)] += 1;
  return counts;
}
