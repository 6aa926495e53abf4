/** A chart over time: lines and bands with crosshair and zoom, a legend with numbers, and the same as a table. */
import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import "../styles/chart.css";
import { formatTime } from "../format/times";
import { Button } from "../ui/basics";
import { ChartTable } from "./table";
import { readKey } from "./gestures";
import { createChartGroup, type ChartGroup } from "./group";
import { Legend } from "./legend";
import { Plot } from "./plot";
import { extentOf, listEntries, nearestIndex, NO_NUMBER, shapeOf, type ChartSpec, type TimeRange } from "./spec";

export interface ChartProps {
  spec: ChartSpec;
  /** What the chart shows, for screen readers and as the title of its table. */
  label: string;
  height: number;
  /** Charts with the same group share crosshair and zoom; default: the chart has its own. */
  group?: ChartGroup;
  /** Called after the reader has zoomed; null: everything is shown. */
  onZoom?: (range: TimeRange | null) => void;
  /** Called when Enter is pressed on the plot. */
  onEnter?: () => void;
  /** Buttons beside the chart's own. */
  actions?: ComponentChildren;
}

const HELP =
  "Arrow keys move the crosshair, with shift the stretch of time. Plus and minus zoom, 0 shows everything.";

export function Chart(props: ChartProps) {
  const own = useMemo(() => createChartGroup(), []);
  const group = props.group ?? own;
  const [isTable, setTable] = useState(false);
  const spoken = useSignal("");
  const host = useRef<HTMLDivElement>(null);
  const latest = useRef(props);
  latest.current = props;

  const rangeNow = () => group.zoom.value ?? extentOf(latest.current.spec);
  const zoomTo = (range: TimeRange | null) => {
    group.zoom.value = range;
    latest.current.onZoom?.(range);
  };
  usePlot(host, latest, group, zoomTo, isTable, shapeOf(props.spec));

  const onKeyDown = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter") return props.onEnter?.();
    const { spec } = latest.current;
    const intent = readKey(event.key, event.shiftKey, rangeNow(), extentOf(spec), group.cursor.value);
    if (intent.kind === "none") return;
    event.preventDefault();
    event.stopPropagation(); // arrows and digits mean nothing else here
    if (intent.kind === "zoom") return zoomTo(intent.range);
    const at = stepCursor(spec, rangeNow(), group.cursor.value, intent.step);
    group.cursor.value = at;
    spoken.value = at === null ? "" : describePoint(spec, at);
  };

  return (
    <figure class="chart" aria-label={props.label}>
      <div class="chart-head">
        {!isTable && <Legend spec={props.spec} cursor={group.cursor} />}
        <div class="chart-actions">
          {group.zoom.value !== null && (
            <Button tone="quiet" onClick={() => zoomTo(null)} label={`${props.label}: show all times`}>
              Show all
            </Button>
          )}
          <Button
            tone="quiet"
            onClick={() => setTable(!isTable)}
            label={`${props.label}: show as ${isTable ? "chart" : "table"}`}
          >
            {isTable ? "As chart" : "As table"}
          </Button>
          {props.actions}
        </div>
      </div>
      {isTable ? (
        <ChartTable spec={props.spec} label={props.label} range={rangeNow()} />
      ) : (
        <div
          ref={host}
          class="chart-plot"
          tabIndex={0}
          role="application"
          aria-roledescription="chart"
          aria-label={`${props.label}. ${HELP}`}
          style={{ height: `${props.height}px` }}
          onKeyDown={onKeyDown}
          onBlur={() => (group.cursor.value = null)}
        />
      )}
      <p class="visually-hidden" aria-live="polite">
        {spoken}
      </p>
    </figure>
  );
}

/** Make the plot of a chart anew when its shape changes, and give it the data and the height that it has then. */
function usePlot(
  host: { readonly current: HTMLDivElement | null },
  latest: { readonly current: ChartProps },
  group: ChartGroup,
  zoomTo: (range: TimeRange | null) => void,
  isTable: boolean,
  shape: string,
): void {
  const made = useRef<Plot | null>(null);
  useEffect(() => {
    if (host.current === null) return;
    const spec = () => latest.current.spec;
    const plot = new Plot(host.current, { spec, group, zoomTo, height: latest.current.height });
    made.current = plot;
    return () => {
      plot.free();
      made.current = null;
    };
  }, [shape, isTable, group]);
  const { spec, height } = latest.current;
  useEffect(() => made.current?.update(), [spec]);
  useEffect(() => made.current?.resize(height), [height]);
}

function stepCursor(spec: ChartSpec, range: TimeRange, cursor: number | null, step: number): number | null {
  const from = cursor ?? (step > 0 ? range.from : range.to);
  const place = nearestIndex(spec.times, from) + (cursor === null ? 0 : step);
  return spec.times[Math.min(Math.max(place, 0), spec.times.length - 1)] ?? null;
}

function describePoint(spec: ChartSpec, at: number): string {
  const index = nearestIndex(spec.times, at);
  const numbers = listEntries(spec)
    .map((entry) => ({ label: entry.label, text: entry.read(index) }))
    .filter(({ text }) => text !== NO_NUMBER)
    .map(({ label, text }) => `${label} ${text}`);
  return `${formatTime(at)}: ${numbers.length > 0 ? numbers.join(", ") : "no value"}`;
}
