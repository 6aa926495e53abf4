/** A chart for each target, or a large one of the target that is chosen. */
import { useMemo, useRef } from "preact/hooks";
import { Chart } from "../../chart/chart";
import { isUnknown } from "../../chart/fan";
import type { ChartGroup } from "../../chart/group";
import type { TimeRange } from "../../chart/spec";
import { describeReach } from "../../format/crossings";
import { formatDuration, formatTime } from "../../format/times";
import { formatValue } from "../../format/values";
import { updateQuery } from "../../routing";
import { useListedKeys, useShortcut } from "../../ui/keys";
import type { AlertRule, Contract, ServerWindow } from "../../wire/types";
import { describePast, type PastForecast, type ServerAccuracy } from "./accuracy";
import { buildTargetSpec } from "./chartSpec";
import { firstCrossing } from "./crossings";
import type { NewestForecast } from "./data";
import { moveFocus } from "./focus";
import { newestValue, readColumn } from "./history";
import { describeSending, type Note } from "./sending";

const SMALL_HEIGHT = 190;
const LARGE_HEIGHT = 400;

export interface ChartsProps {
  contract: Contract;
  window: ServerWindow;
  forecast: NewestForecast | null;
  rules: readonly AlertRule[];
  past: { accuracy: ServerAccuracy; forecast: PastForecast } | null;
  /** The target that is shown alone; empty: all. */
  target: string;
  group: ChartGroup;
  onZoom: (range: TimeRange | null) => void;
  now: number;
  isStale: boolean;
}

export function Charts(props: ChartsProps) {
  const { contract, target } = props;
  const shown = contract.targets.includes(target) ? [target] : contract.targets;
  const list = useRef<HTMLDivElement>(null);
  useShortcut("j", "next chart", () => moveFocus(list.current, ".chart-plot", 1));
  useShortcut("k", "previous chart", () => moveFocus(list.current, ".chart-plot", -1));
  useListedKeys("Enter", "in a chart: show it alone, or all again");
  useListedKeys("← →", "in a chart: move the crosshair");
  useListedKeys("Shift ← →", "in a chart: move the stretch of time");
  useListedKeys("+ -", "in a chart: zoom");
  useListedKeys("0", "in a chart: show everything");
  return (
    <div class={`server-charts ${shown.length === 1 ? "is-single" : ""}`} ref={list}>
      {shown.map((each) => (
        <TargetCard key={each} {...props} name={each} isLarge={shown.length === 1} />
      ))}
    </div>
  );
}

function TargetCard(props: ChartsProps & { name: string; isLarge: boolean }) {
  const { name, isLarge, contract, window, forecast, rules, past, now, isStale } = props;
  const unit = contract.units[name] ?? "";
  const spec = useMemo(
    () => buildTargetSpec({ target: name, unit, window, forecast, rules, past, now, isStale }),
    [name, unit, window, forecast, rules, past, now, isStale],
  );
  const toggle = () => updateQuery({ target: isLarge ? "" : name });
  return (
    <section class="panel server-card" aria-label={name}>
      <header class="server-card-head">
        <h2>
          <button
            type="button"
            class="server-card-name"
            aria-expanded={isLarge}
            title={isLarge ? "Show all targets" : "Show this target alone"}
            onClick={toggle}
          >
            {name}
          </button>
        </h2>
        <p class="server-card-now">{describeNow(props, unit)}</p>
      </header>
      <Chart
        spec={spec}
        label={`${name}: history and forecast`}
        height={isLarge ? LARGE_HEIGHT : SMALL_HEIGHT}
        group={props.group}
        onZoom={props.onZoom}
        onEnter={toggle}
      />
      <Notes {...props} />
    </section>
  );
}

/** Such as `41 % now, 47 % likely in 8 h`; what is ahead at a threshold comes first. */
function describeNow({ name, window, forecast, rules, now }: ChartsProps & { name: string }, unit: string): string {
  const value = newestValue(readColumn(window, name));
  if (value === null && isUnknown(forecast, name)) return "unknown";
  const rows = forecast?.values[forecast.targets.indexOf(name)];
  const middle = forecast?.quantiles.indexOf(0.5) ?? -1;
  const last = rows?.[rows.length - 1]?.[middle];
  const present = value === null ? "no value in the newest row" : `${formatValue(value, unit)} now`;
  if (rows == null || last === undefined || forecast === null) return present;
  const ahead = firstCrossing(rules, name, forecast);
  const likely = ahead?.crossing.likely ?? null;
  if (ahead !== null && likely !== null && likely > now) {
    return `${present}, ${describeReach(ahead.rule)} likely in ${formatDuration(likely - now)}`;
  }
  const span = rows.length * forecast.step_seconds * (forecast.every ?? 1);
  return `${present}, ${formatValue(last, unit)} likely in ${formatDuration(span)}`;
}

function Notes(props: ChartsProps & { name: string }) {
  const { name, contract, window, forecast, past } = props;
  const facts = {
    target: name,
    column: readColumn(window, name),
    forecast,
    contextLength: contract.context_length,
    stepSeconds: contract.step_seconds,
  };
  const notes: Note[] = [describeSending(facts, props.now)].filter((note) => note !== null);
  if (past !== null) {
    const made = formatTime(past.forecast.origin, props.now);
    notes.push({ text: `Forecast of ${made}: ${describePast(past.accuracy, past.forecast, name)}.`, isWarning: false });
  }
  return (
    <>
      {notes.map(({ text, isWarning }) => (
        <p key={text} class={isWarning ? "server-note is-warning" : "server-note"}>
          {text}
        </p>
      ))}
    </>
  );
}
