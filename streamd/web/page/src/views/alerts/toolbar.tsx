/** The filters of alerts: server, rule, severity, and how active ones stand. */
import { updateQuery } from "../../routing";
import { Field } from "../../ui/basics";
import { Chip } from "../../ui/chip";
import { Choice } from "../../ui/choice";
import type { AlertRule } from "../../wire/types";
import { type Filters, SEVERITIES, type Standing, STANDINGS, writeFilters } from "./filters";

function change(part: Partial<Filters>): void {
  updateQuery(writeFilters(part));
}

const STANDING_TITLES: Record<Standing, string> = {
  firing: "Alerts that fire and are not silenced",
  pending: "Alerts that wait for another forecast that crosses",
  silenced: "Alerts that no receiver is notified of",
};

/** How many active alerts stand how; each number is a filter. */
export function StandingChips(props: { filters: Filters; counts: Record<Standing, number> }) {
  const { filters, counts } = props;
  return (
    <div class="cluster" role="group" aria-label="Filter by state">
      {STANDINGS.map((standing) => (
        <Chip
          key={standing}
          count={counts[standing]}
          label={standing}
          title={STANDING_TITLES[standing]}
          kind={standing}
          isPressed={filters.standing === standing}
          onClick={() => change({ standing: filters.standing === standing ? "" : standing })}
        />
      ))}
    </div>
  );
}

export function Toolbar({ filters, rules }: { filters: Filters; rules: readonly AlertRule[] }) {
  return (
    <div class="toolbar">
      <Field label="Server">
        <input
          type="search"
          value={filters.server}
          placeholder="part of a name, or web-*"
          autoComplete="off"
          spellcheck={false}
          maxLength={256}
          onInput={(event) => change({ server: event.currentTarget.value })}
        />
      </Field>
      <Field label="Rule">
        <Choice
          value={filters.rule}
          all="All rules"
          choices={rules.map(({ rule }) => rule)}
          onChange={(rule) => change({ rule })}
        />
      </Field>
      <Field label="Severity">
        <Choice
          value={filters.severity}
          all="All severities"
          choices={SEVERITIES}
          onChange={(value) => change({ severity: SEVERITIES.find((each) => each === value) ?? "" })}
        />
      </Field>
    </div>
  );
}
