/** When a threshold is reached, in words and as a bar on the axis of the forecast. Times are epoch seconds. */
import { describeEarliest, describeThreshold, describeWhenAndTime, formatUntil } from "../../format/crossings";
import { formatDuration, formatTime } from "../../format/times";
import type { Crossing, CrossingTimes } from "../../wire/types";

/** The time until a threshold: the likely one, and beside it the earliest. */
export interface UntilWords {
  main: string;
  /** The time of day of the likely one; empty where there is none ahead. */
  clock: string;
  note: string;
  /** Both and the times of day, for a tooltip and for screen readers. */
  whole: string;
}

export function describeUntil(crossing: Crossing, now: number): UntilWords {
  const { earliest, likely, latest } = crossing.crosses_at;
  const first = earliest ?? likely;
  const main = likely === null ? "unlikely" : formatUntil(likely, now);
  const whole = [
    describeThreshold(crossing),
    likely === null ? "not likely within the forecast" : `likely ${describeWhenAndTime(likely, now)}`,
    first === null ? "" : describeEarliest(first, now),
    latest === null ? "" : `latest ${describeWhenAndTime(latest, now)}`,
  ];
  const note = first === null || main === "now" ? "" : describeEarliest(first, now, formatUntil);
  const clock = likely === null || main === "now" ? "" : formatTime(likely, now);
  return { main, clock, note, whole: join(whole) };
}

function join(parts: readonly string[]): string {
  return parts.filter((part) => part !== "").join(", ");
}

/** How long something lasts already; seconds would change all the time. */
export function describeAge(seconds: number): string {
  return seconds < 60 ? "less than 1 min" : formatDuration(seconds);
}

/** Places on an axis from 0 to 1. `likely` is null where the median does not cross; `isOpen` where the end is not known. */
export interface RangeBar {
  from: number;
  to: number;
  likely: number | null;
  isOpen: boolean;
}

/** Lay a range on an axis that begins at `start` and is `length` seconds long; null without any time. */
export function layRange(times: CrossingTimes, start: number, length: number): RangeBar | null {
  const place = (at: number) => Math.max(0, Math.min(1, (at - start) / length));
  const first = times.earliest ?? times.likely ?? times.latest;
  if (first === null || !(length > 0)) return null;
  return {
    from: place(first),
    to: times.latest === null ? 1 : place(times.latest),
    likely: times.likely === null ? null : place(times.likely),
    isOpen: times.latest === null,
  };
}
