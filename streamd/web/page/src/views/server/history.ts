/** The window of a server as columns, and what is missing in it. Times are those at which steps begin. */
import type { ServerWindow } from "../../wire/types";
import type { TimeSpan } from "../../chart/spec";

export interface Column {
  times: number[];
  values: (number | null)[];
}

/** Leave out the rows before the first one with a value: the window of a new server is not full yet. */
export function trimWindow(window: ServerWindow): ServerWindow {
  const first = window.values.findIndex((row) => row.some((value) => value !== null));
  return first <= 0 ? window : { ...window, values: window.values.slice(first) };
}

/** The values of a feature, oldest first; empty if the model has no such feature. */
export function readColumn(window: ServerWindow, feature: string): Column {
  const place = window.features.indexOf(feature);
  if (place < 0) return { times: [], values: [] };
  const first = window.origin - window.values.length * window.step_seconds;
  return {
    times: window.values.map((_, row) => first + row * window.step_seconds),
    values: window.values.map((row) => row[place] ?? null),
  };
}

/** The newest value, if the newest row has one. */
export function newestValue(column: Column): number | null {
  return column.values[column.values.length - 1] ?? null;
}

/** Stretches of steps without a value, from the beginning of the first to the end of the last. */
export function findGaps(column: Column, stepSeconds: number): { from: number; to: number }[] {
  const gaps: { from: number; to: number }[] = [];
  column.times.forEach((at, place) => {
    if (column.values[place] !== null) return;
    const last = gaps[gaps.length - 1];
    if (last !== undefined && last.to === at) last.to = at + stepSeconds;
    else gaps.push({ from: at, to: at + stepSeconds });
  });
  return gaps;
}

/** Gaps as they are drawn; also the time since the newest row of a server that is silent. */
export function missingSpans(column: Column, stepSeconds: number, silentUntil: number | null): TimeSpan[] {
  const spans = findGaps(column, stepSeconds);
  const newest = column.times[column.times.length - 1];
  if (silentUntil !== null && newest !== undefined) {
    const last = spans[spans.length - 1];
    const from = newest + stepSeconds;
    if (last !== undefined && last.to === from) last.to = silentUntil;
    else spans.push({ from, to: silentUntil });
  }
  return spans.map(({ from, to }) => ({ from, to, label: "no data", kind: "hatched", color: "--chart-missing" }));
}

/** How many values of a column are missing. */
export function countMissing(column: Column): number {
  return column.values.filter((value) => value === null).length;
}

/** `silent`: not any more; `never`: not within the window. */
export type Sending = "sent" | "silent" | "never";

/** Whether a target has a value in the newest twelfth of a full window: if not, no rule alerts. */
export function judgeSending(column: Column, contextLength: number): Sending {
  if (column.values.every((value) => value === null)) return "never";
  const recent = column.values.slice(-recentRows(contextLength));
  return recent.some((value) => value !== null) ? "sent" : "silent";
}

/** How many rows the newest twelfth of a full window has. */
function recentRows(contextLength: number): number {
  return Math.max(1, Math.floor(contextLength / 12));
}
