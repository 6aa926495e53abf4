/** Alerts: what fires and what will, what ended, what is silenced, and by which rules. */
import { useState } from "preact/hooks";
import { formatWhole } from "../../format/values";
import { route, updateQuery } from "../../routing";
import { Button, ErrorNote, Panel, Segmented } from "../../ui/basics";
import { ViewHead } from "../../ui/view";
import "../../styles/alerts.css";
import { type AlertsData, useAlertsData } from "./data";
import { readFilters, writeFilters, type Filters, type Part } from "./filters";
import { PartPanel } from "./parts";
import { ReceiversNote } from "./receivers";
import { NoRules } from "./rules";
import { SilenceDialog, type SilenceDraft } from "./silenceDialog";
import { StandingChips, Toolbar } from "./toolbar";

const TITLES: Record<Part, string> = { active: "Active", history: "History", silences: "Silences", rules: "Rules" };

export function AlertsView() {
  const filters = readFilters(route.value.query);
  const data = useAlertsData();
  const [draft, setDraft] = useState<SilenceDraft | null>(null);
  const { alerts, active, status, rules, silences } = data;
  const known = rules.data ?? [];
  const error = alerts.error ?? rules.error ?? silences.error;
  return (
    <div class="stack alerts">
      <ViewHead
        title="Alerts"
        note={status.data && <ReceiversNote receivers={status.data.alerts?.receivers ?? []} />}
        actions={
          known.length > 0 && (
            <Button onClick={() => setDraft({ server: null, rule: filters.rule })}>Silence alerts …</Button>
          )
        }
      />
      {error !== undefined && (
        <ErrorNote error={error} onRetry={() => [alerts, rules, silences].forEach((each) => each.reload())} />
      )}
      {rules.data !== undefined && known.length === 0 && active.length === 0 ? (
        <Panel title="Rules">
          <NoRules targets={status.data?.contract.targets ?? []} units={status.data?.contract.units ?? {}} />
        </Panel>
      ) : (
        <>
          <PartChoice data={data} filters={filters} />
          {(filters.part === "active" || filters.part === "history") && <Toolbar filters={filters} rules={known} />}
          <PartPanel
            data={data}
            filters={filters}
            onSilence={({ server, rule }) => setDraft({ server, rule })}
          />
        </>
      )}
      {draft !== null && (
        <SilenceDialog
          draft={draft}
          rules={known}
          active={active}
          isOpen={status.data?.access.open ?? false}
          onClose={() => setDraft(null)}
          onBegun={() => {
            setDraft(null);
            silences.reload();
          }}
        />
      )}
    </div>
  );
}

/** The parts with their numbers, and of the active alerts how many stand how. */
function PartChoice({ data, filters }: { data: AlertsData; filters: Filters }) {
  const { alerts, active, silences, rules, counts } = data;
  const parts: Record<Part, string> = {
    active: count(TITLES.active, alerts.active && active.length),
    history: TITLES.history,
    silences: count(TITLES.silences, silences.data?.length),
    rules: count(TITLES.rules, rules.data?.length),
  };
  return (
    <div class="cluster alerts-parts">
      <Segmented
        label="Part of the alerts"
        value={filters.part}
        choices={(Object.keys(parts) as Part[]).map((value) => ({ value, label: parts[value] }))}
        onChange={(part) => updateQuery(writeFilters({ part }))}
      />
      {filters.part === "active" && <StandingChips filters={filters} counts={counts} />}
    </div>
  );
}

function count(title: string, number: number | undefined): string {
  return number === undefined ? title : `${title} ${formatWhole(number)}`;
}
