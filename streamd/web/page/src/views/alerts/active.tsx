/** The pending and firing alerts, worst first. */
import { useRef, useState } from "preact/hooks";
import { showName } from "../../format/names";
import { now } from "../../format/times";
import { navigate } from "../../routing";
import { Age, Button, EmptyState } from "../../ui/basics";
import { useShortcut } from "../../ui/keys";
import { useListKeys } from "../../ui/listKeys";
import type { Alert } from "../../wire/types";
import { keyOf } from "./book";
import { type CardColumn, CardTable } from "./cards";
import { ServerLink, SilencedUntil, StandingBadge, Threshold, Until } from "./cells";
import { standingOf } from "./filters";
import { useMore } from "./more";

interface Props {
  alerts: readonly Alert[];
  isFiltered: boolean;
  onSilence: (alert: Alert) => void;
}

export function ActiveAlerts(props: Props) {
  const { shown, more } = useMore(props.alerts, "alert");
  const list = useRef<HTMLDivElement>(null);
  const [chosen, setChosen] = useState(-1);
  const onKeyDown = useListKeys({
    count: shown.length,
    index: Math.min(chosen, shown.length - 1),
    onMove: (index) => list.current?.querySelectorAll<HTMLElement>(".alerts-server")[index]?.focus(),
    onOpen: (index) => {
      const alert = shown[index];
      if (alert !== undefined) navigate("servers", { server: alert.server, target: alert.target });
    },
  });
  useShortcut("s", "silence the chosen alert", () => {
    const alert = shown[chosen];
    if (alert !== undefined) props.onSilence(alert);
  });
  if (props.alerts.length === 0) return <NoAlerts isFiltered={props.isFiltered} />;
  return (
    <div ref={list}>
      <CardTable
        caption="Active alerts, worst first"
        columns={listColumns(props.onSilence)}
        rows={shown}
        rowKey={keyOf}
        rowClass={(alert) => `is-${standingOf(alert, now.peek())}`}
        onKeyDown={onKeyDown}
        onFocusRow={setChosen}
      />
      {more}
    </div>
  );
}

function listColumns(onSilence: (alert: Alert) => void): readonly CardColumn<Alert>[] {
  return [
    { key: "severity", label: "Severity", cell: (alert) => <StandingBadge alert={alert} /> },
    { key: "server", label: "Server", cell: (alert) => <ServerLink alert={alert} /> },
    { key: "what", label: "What", cell: (alert) => <Threshold alert={alert} /> },
    { key: "when", label: "When", cell: (alert) => <Until alert={alert} /> },
    { key: "fired", label: "Fired", cell: (alert) => alert.starts_at !== null && <Since at={alert.starts_at} /> },
    {
      key: "action",
      label: "Silence",
      isLabelHidden: true,
      cell: (alert) => <SilenceButton alert={alert} onClick={() => onSilence(alert)} />,
    },
  ];
}

function Since({ at }: { at: number }) {
  return (
    <span class="soft nowrap">
      <Age at={at} />
    </span>
  );
}

function SilenceButton({ alert, onClick }: { alert: Alert; onClick: () => void }) {
  const isSilenced = standingOf(alert, now.peek()) === "silenced";
  return (
    <>
      {isSilenced && <SilencedUntil until={alert.silenced_until ?? 0} />}
      <Button tone="quiet" label={`Silence ${alert.rule} on ${showName(alert.server)}`} onClick={onClick}>
        {isSilenced ? "Longer" : "Silence"}
      </Button>
    </>
  );
}

function NoAlerts({ isFiltered }: { isFiltered: boolean }) {
  if (isFiltered) return <EmptyState title="No active alert matches these filters" />;
  return (
    <EmptyState title="Nothing fires">
      <p>No forecast crosses the threshold of a rule. Alerts appear here by themselves.</p>
    </EmptyState>
  );
}
