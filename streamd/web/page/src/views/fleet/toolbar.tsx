/** What is chosen of the fleet: counts as filters, the search, the target, the rule, the order, groups. */
import { useEffect, useRef, useState } from "preact/hooks";
import { showName } from "../../format/names";
import { updateQuery } from "../../routing";
import { Field, Segmented } from "../../ui/basics";
import { Chip } from "../../ui/chip";
import { Choice } from "../../ui/choice";
import type { AlertRule, FleetFilter } from "../../wire/types";
import { LIST_ID } from "./list";
import type { Summary } from "./rows";
import { countChoices, SORTS, toggleFilter, writeState, type FleetState } from "./state";

const SEARCH_MS = 200;

const CHIPS: readonly { filter: FleetFilter; label: string; title: string }[] = [
  { filter: "firing", label: "firing", title: "Servers with an alert that fires and is not silenced" },
  { filter: "stale", label: "stale", title: "Servers whose newest row is more than three steps old" },
  { filter: "warming", label: "warming", title: "Servers whose window has too few rows for a forecast" },
  { filter: "pending", label: "without a forecast", title: "Servers with enough rows whose first forecast is on its way" },
  { filter: "current", label: "current", title: "Servers that report and have a forecast" },
];

function change(part: Partial<FleetState>): void {
  updateQuery(writeState(part));
}

export function Chips({ state, summary }: { state: FleetState; summary: Summary }) {
  return (
    <div class="cluster" role="group" aria-label="Filter by condition">
      {state.prefix !== "" && (
        <button
          type="button"
          class="chip"
          aria-pressed={true}
          title="Back to the groups"
          onClick={() => change({ prefix: "", isGrouped: true })}
        >
          group <strong>{showName(state.prefix)}*</strong> <span aria-hidden="true">✕</span>
        </button>
      )}
      <Chip
        count={summary.total}
        label={summary.total === 1 ? "server" : "servers"}
        isPressed={state.filters.length === 0 && state.prefix === ""}
        onClick={() => change({ filters: [], prefix: "" })}
      />
      {CHIPS.map(({ filter, label, title }) => (
        <Chip
          key={filter}
          count={summary.counts[filter]}
          label={label}
          title={title}
          kind={filter}
          isPressed={state.filters.includes(filter)}
          onClick={() => change({ filters: toggleFilter(state.filters, filter) })}
        />
      ))}
    </div>
  );
}

export function Toolbar(props: { state: FleetState; targets: readonly string[]; rules: readonly AlertRule[] }) {
  const { state } = props;
  const [isOpen, setOpen] = useState(false);
  const chosen = countChoices(state);
  return (
    <div class="toolbar fleet-toolbar">
      <Search value={state.search} />
      <button
        type="button"
        class="button fleet-more"
        aria-expanded={isOpen}
        aria-controls="fleet-choices"
        onClick={() => setOpen(!isOpen)}
      >
        Choices{chosen > 0 && ` (${chosen})`}
      </button>
      <div class={`toolbar fleet-choices${isOpen ? " is-open" : ""}`} id="fleet-choices">
        <Field label="Target">
          <Choice
            value={state.target}
            all="All targets"
            choices={props.targets}
            onChange={(target) => change({ target })}
          />
        </Field>
        <Field label="Alert rule">
          <Choice
            value={state.rule}
            all="All rules"
            choices={props.rules.map(({ rule }) => rule)}
            onChange={(rule) => change({ rule })}
          />
        </Field>
        <Segmented label="Order" value={state.sort} choices={SORTS} onChange={(sort) => change({ sort })} />
        <label class="fleet-group">
          <input
            type="checkbox"
            checked={state.isGrouped}
            onChange={(event) => change({ isGrouped: event.currentTarget.checked })}
          />
          Group by prefix
        </label>
      </div>
    </div>
  );
}

function Search({ value }: { value: string }) {
  const [text, setText] = useState(value);
  const timer = useRef<number | undefined>(undefined);
  const sent = useRef(value);
  useEffect(() => {
    // Back and forward, and links, change the address; what the reader is typing stays.
    if (value !== sent.current) setText(value);
    sent.current = value;
  }, [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const type = (next: string) => {
    setText(next);
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => {
      sent.current = next.trim();
      change({ search: sent.current });
    }, SEARCH_MS);
  };
  return (
    <Field label="Search">
      <input
        type="search"
        value={text}
        placeholder="part of a name, or web-*"
        autoComplete="off"
        spellcheck={false}
        maxLength={256}
        onKeyDown={(event) => {
          if (event.key !== "Enter" && event.key !== "ArrowDown") return;
          event.preventDefault();
          document.getElementById(LIST_ID)?.focus();
        }}
        onInput={(event) => type(event.currentTarget.value)}
      />
    </Field>
  );
}
