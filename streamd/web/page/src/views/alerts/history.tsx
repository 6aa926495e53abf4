/** The alerts that were resolved lately, the newest first, with the reason. */
import { formatDuration } from "../../format/times";
import { EmptyState, Time } from "../../ui/basics";
import type { Alert } from "../../wire/types";
import { historyKeyOf } from "./book";
import { type CardColumn, CardTable } from "./cards";
import { ServerLink, SeverityBadge, Threshold } from "./cells";
import { useMore } from "./more";
import { describeReason } from "./words";

const COLUMNS: readonly CardColumn<Alert>[] = [
  { key: "severity", label: "Severity", cell: (alert) => <SeverityBadge severity={alert.severity} /> },
  { key: "server", label: "Server", cell: (alert) => <ServerLink alert={alert} /> },
  { key: "what", label: "What", cell: (alert) => <Threshold alert={alert} /> },
  { key: "fired", label: "Fired", cell: (alert) => alert.starts_at !== null && <Time at={alert.starts_at} /> },
  { key: "over", label: "Ended", cell: (alert) => <Ended alert={alert} /> },
  { key: "reason", label: "Because", cell: (alert) => <span class="soft">{describeReason(alert)}</span> },
];

function Ended({ alert }: { alert: Alert }) {
  if (alert.ends_at === null) return null;
  return (
    <span class="alerts-pair">
      <Time at={alert.ends_at} />
      <small class="soft">after {formatDuration(alert.ends_at - (alert.starts_at ?? alert.ends_at))}</small>
    </span>
  );
}

export function AlertHistory({ alerts, isFiltered }: { alerts: readonly Alert[]; isFiltered: boolean }) {
  const { shown, more } = useMore(alerts, "alert");
  if (alerts.length === 0) {
    return (
      <EmptyState title={isFiltered ? "No alert of the past matches these filters" : "No alert has ended yet"}>
        <p>The last 1,000 alerts that fired and ended are kept here, also over restarts.</p>
      </EmptyState>
    );
  }
  return (
    <>
      <CardTable caption="Resolved alerts, newest first" columns={COLUMNS} rows={shown} rowKey={historyKeyOf} />
      {more}
    </>
  );
}
