/** The legend of a chart: what it shows, and at the crosshair the numbers of what has one there. */
import type { Signal } from "@preact/signals";
import { formatTime } from "../format/times";
import { listEntries, nearestIndex, NO_NUMBER, type ChartSpec, type LegendEntry } from "./spec";

export function Legend(props: { spec: ChartSpec; cursor: Signal<number | null> }) {
  const { spec, cursor } = props;
  const at = cursor.value;
  const entries = listEntries(spec);
  const time = at === null ? undefined : spec.times[nearestIndex(spec.times, at)];
  return (
    <ul class="chart-legend">
      {at === null || time === undefined ? (
        entries.map((entry) => <Entry key={entry.label} entry={entry} />)
      ) : (
        <Numbers entries={entries} index={nearestIndex(spec.times, at)} time={time} />
      )}
    </ul>
  );
}

function Numbers(props: { entries: readonly LegendEntry[]; index: number; time: number }) {
  const { entries, index, time } = props;
  const shown = entries
    .map((entry) => ({ entry, text: entry.read(index) }))
    .filter(({ text }) => text !== NO_NUMBER);
  return (
    <>
      <li class="chart-number">{formatTime(time)}</li>
      {shown.map(({ entry, text }) => (
        <Entry key={entry.label} entry={entry} text={text} />
      ))}
      {shown.length === 0 && <li>no value</li>}
    </>
  );
}

function Entry(props: { entry: LegendEntry; text?: string }) {
  const { color, shape, dash, label } = props.entry;
  const style = shape === "line" ? { borderTopColor: `var(${color})` } : { backgroundColor: `var(${color})` };
  return (
    <li>
      <span class={`chart-swatch is-${shape}${dash ? " is-dashed" : ""}`} style={style} aria-hidden="true" />
      <span>{label}</span>
      {props.text !== undefined && <span class="chart-number">{props.text}</span>}
    </li>
  );
}
