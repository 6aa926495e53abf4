/** What the view of alerts shows, by the socket and by calls. */
import { useComputed } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { now } from "../../format/times";
import { useResource, type Resource } from "../../ui/resource";
import { getJson } from "../../wire/api";
import { readRules, readStatus } from "../../wire/calls";
import type { Status } from "../../wire/status";
import type { Alert, AlertRule, Silence } from "../../wire/types";
import { type LiveAlerts, useAlerts } from "./feed";
import { countStandings, type Standing } from "./filters";

const STATUS_SECONDS = 15;
const SILENCES_SECONDS = 15;
const RULES_SECONDS = 60;
/** The order of the list, and what is silenced, follow the clock this often; times do every second. */
const RANK_SECONDS = 10;

export interface AlertsData {
  alerts: LiveAlerts;
  /** The pending and firing alerts. */
  active: readonly Alert[];
  counts: Record<Standing, number>;
  /** Moves whenever the order must be found again. */
  tick: number;
  status: Resource<Status>;
  rules: Resource<AlertRule[]>;
  /** Those that hold. */
  silences: Resource<Silence[]>;
}

/** Read everything, and keep it up to date while the view is open. */
export function useAlertsData(): AlertsData {
  const alerts = useAlerts();
  const status = useResource(readStatus, [], STATUS_SECONDS);
  const rules = useResource((abort) => readRules(abort), [], RULES_SECONDS);
  const silences = useResource(readSilences, [], SILENCES_SECONDS);
  const tick = useComputed(() => Math.floor(now.value / RANK_SECONDS)).value;
  const active = useMemo(() => [...(alerts.active?.values() ?? [])], [alerts.active, alerts.version]);
  const counts = useMemo(() => countStandings(active, now.peek()), [active, tick]);
  // A silence of somebody else marks alerts, long before the silences are read again.
  useEffect(() => silences.reload(), [counts.silenced]);
  const holding = silences.data?.filter(({ ends_at }) => ends_at > now.peek());
  return { alerts, active, counts, tick, status, rules, silences: { ...silences, data: holding } };
}

async function readSilences(abort: AbortSignal): Promise<Silence[]> {
  return (await getJson<{ silences: Silence[] }>("v1/silences", {}, abort)).silences;
}
