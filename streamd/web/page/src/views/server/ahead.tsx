/** Thresholds and alerts of a server: what each rule says about the newest forecast. */
import type { ComponentChildren } from "preact";
import { isUnknown, type ForecastCurves } from "../../chart/fan";
import { now } from "../../format/times";
import { formatValue } from "../../format/values";
import { linkTo } from "../../routing";
import { Badge, Panel, Time } from "../../ui/basics";
import { DataTable } from "../../ui/table";
import type { Alert, AlertRule } from "../../wire/types";
import { describeCrossing, findCrossings } from "./crossings";

interface RuleRow {
  rule: AlertRule;
  alert: Alert | undefined;
}

export function Ahead(props: {
  server: string;
  rules: readonly AlertRule[];
  alerts: readonly Alert[];
  forecast: ForecastCurves | null;
}) {
  const { server, rules, alerts, forecast } = props;
  const rows = rules.map((rule): RuleRow => ({ rule, alert: newestAlert(alerts, rule.rule) }));
  const link = <a href={linkTo("alerts", { server })}>Alerts and silences of this server</a>;
  return (
    <Panel title="Thresholds" actions={link}>
      <DataTable
        caption="Alert rules of this server, and what the forecast says"
        rows={rows}
        rowKey={({ rule }) => rule.rule}
        empty={<p class="soft">No alert rule has this server. docs/alerts.md says how to write one.</p>}
        columns={[
          { key: "rule", label: "Rule", cell: ({ rule }) => rule.rule },
          {
            key: "state",
            label: "Alert",
            cell: ({ alert, rule }) => stateOf(alert, rule, isUnknown(forecast, rule.target)),
          },
          {
            key: "limit",
            label: "Threshold",
            cell: ({ rule }) => <span class="nowrap">{describeThreshold(rule)}</span>,
          },
          {
            key: "ahead",
            label: "In the forecast",
            cell: ({ rule }) => {
              if (forecast === null) return <span class="soft">no forecast yet</span>;
              if (isUnknown(forecast, rule.target)) return <span class="soft">{rule.target} is not sent</span>;
              const words = describeCrossing(findCrossings(forecast, rule), now.value);
              return <span class="server-words">{words || "not reached"}</span>;
            },
          },
        ]}
      />
    </Panel>
  );
}

function newestAlert(alerts: readonly Alert[], rule: string): Alert | undefined {
  return alerts
    .filter((alert) => alert.rule === rule)
    .sort((one, other) => other.updated_at - one.updated_at)[0];
}

function describeThreshold(rule: AlertRule): string {
  const [side, limit] = typeof rule.above === "number" ? ["above", rule.above] : ["below", rule.below];
  return `${rule.target} ${side} ${formatValue(limit, rule.unit)}`;
}

function stateOf(alert: Alert | undefined, rule: AlertRule, hasNoState: boolean): ComponentChildren {
  const quiet = <Badge tone="muted">{hasNoState ? "unknown" : "quiet"}</Badge>;
  if (alert === undefined) return quiet;
  if (alert.state === "firing") {
    return (
      <span>
        <Badge tone={rule.severity}>firing</Badge>{" "}
        {alert.starts_at !== null && <>since <Time at={alert.starts_at} /></>}
        {alert.silenced_until != null && <>, silenced until <Time at={alert.silenced_until} /></>}
      </span>
    );
  }
  if (alert.state === "pending") return <Badge tone="info">pending</Badge>;
  return (
    <span>
      {quiet} {alert.ends_at !== null && <>resolved <Time at={alert.ends_at} /></>}
    </span>
  );
}
