/** Thresholds, and the time until one is crossed, in words: the same in all views. Times are epoch seconds. */
import { formatDuration, formatTime } from "./times";
import { formatValue } from "./values";

/** A rule or a crossing, as far as words need it. */
export interface Threshold {
  unit: string;
  above?: number | null;
  below?: number | null;
}

/** Such as `reaches 90 %`. */
export function describeReach({ unit, above, below }: Threshold): string {
  return typeof above === "number" ? `reaches ${formatValue(above, unit)}` : `falls to ${formatValue(below, unit)}`;
}

/** Such as `disk_usage reaches 90 %`. */
export function describeThreshold(threshold: Threshold & { target: string }): string {
  return `${threshold.target} ${describeReach(threshold)}`;
}

/** Forecasts are not finer than this: what is nearer, or over, is now. */
const NOW_SECONDS = 30;

/** Whether a threshold is crossed now, or was before. */
export function isNow(at: number, present: number): boolean {
  return at - present < NOW_SECONDS;
}

/** The time until a crossing, without seconds: `3 h 10 min`, `1 min`, `now`. */
export function formatUntil(at: number, present: number): string {
  if (isNow(at, present)) return "now";
  return at - present < 60 ? "1 min" : formatDuration(at - present);
}

/** Such as `in 3 h 10 min`, `now`. */
export function describeWhen(at: number, present: number): string {
  return isNow(at, present) ? "now" : `in ${formatUntil(at, present)}`;
}

/**
 * The earliest time, as `write` has it: `earliest in 40 min`.
 *
 * Values that jump may cross with the next row. "Earliest now" beside a likely time in hours would puzzle.
 */
export function describeEarliest(at: number, present: number, write = describeWhenAndTime): string {
  return isNow(at, present) ? "possible now" : `earliest ${write(at, present)}`;
}

/** The same with the time of day: `in 3 h 10 min (17:15)`, `now`. */
export function describeWhenAndTime(at: number, present: number): string {
  return isNow(at, present) ? "now" : `${describeWhen(at, present)} (${formatTime(at, present)})`;
}
