/** The parts of the view: one of them is open, in a panel. */
import { useMemo } from "preact/hooks";
import { formatCount } from "../../format/names";
import { now } from "../../format/times";
import { formatWhole } from "../../format/values";
import { Loading, Panel } from "../../ui/basics";
import type { Alert } from "../../wire/types";
import { ActiveAlerts } from "./active";
import type { AlertsData } from "./data";
import { hasFilters, isChosen, type Filters, type Part } from "./filters";
import { AlertHistory } from "./history";
import { rankAlerts } from "./order";
import { AlertRules } from "./rules";
import { Silences } from "./silences";

interface PartProps {
  data: AlertsData;
  filters: Filters;
  onSilence: (alert: Alert) => void;
}

const PARTS = { active: ActivePart, history: HistoryPart, silences: SilencesPart, rules: RulesPart };

export function PartPanel(props: PartProps) {
  const { part } = props.filters;
  const Content = PARTS[part];
  return (
    <Panel title={panelTitle(part)}>
      <Content {...props} />
    </Panel>
  );
}

function panelTitle(part: Part): string {
  if (part === "active") return "Pending and firing, worst first";
  return { history: "Resolved, newest first", silences: "Silences that hold", rules: "Rules, in their order" }[part];
}

function ActivePart(props: PartProps) {
  const { filters } = props;
  const { alerts, active, tick } = props.data;
  const { server, rule, severity, standing } = filters;
  const ranked = useMemo(() => {
    const present = now.peek();
    return rankAlerts(
      active.filter((alert) => isChosen(alert, filters, present)),
      present,
    );
  }, [active, tick, server, rule, severity, standing]);
  if (alerts.active === undefined) return <Loading what="the alerts" />;
  return (
    <>
      {ranked.length < active.length && (
        <p class="soft" role="status">
          {formatCount(ranked.length, "alert")} of {formatWhole(active.length)}
        </p>
      )}
      <ActiveAlerts alerts={ranked} isFiltered={hasFilters(filters)} onSilence={props.onSilence} />
    </>
  );
}

function HistoryPart({ data, filters }: PartProps) {
  const { history } = data.alerts;
  if (history === undefined) return <Loading what="the history" />;
  const chosen = history.filter((alert) => isChosen(alert, filters, now.peek()));
  return <AlertHistory alerts={chosen} isFiltered={hasFilters(filters)} />;
}

function SilencesPart({ data }: PartProps) {
  const { silences, active, status } = data;
  if (silences.data === undefined) return <Loading what="the silences" />;
  const isOpen = status.data?.access.open ?? false;
  return <Silences silences={silences.data} active={active} isOpen={isOpen} onEnded={silences.reload} />;
}

function RulesPart({ data }: PartProps) {
  if (data.rules.data === undefined) return <Loading what="the rules" />;
  return <AlertRules rules={data.rules.data} active={data.active} />;
}
