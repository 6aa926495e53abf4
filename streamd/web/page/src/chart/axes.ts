/** Texts of the axes, and the range of values that a chart shows. */
import { formatValue } from "../format/values";
import type { Threshold } from "./spec";

const DAY_SECONDS = 86_400;
const TICK_STEPS = [60, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, ...[1, 2, 7].map(toDays)];
/** A threshold this many widths of the values away is named at the edge, so that the values stay readable. */
const FAR = 3;

function toDays(days: number): number {
  return days * DAY_SECONDS;
}

/** The texts of the ticks of time, in the reader's zone: the time of day, and the day below where it begins. */
export function formatTimeTicks(ticks: readonly number[]): string[] {
  let former = "";
  return ticks.map((at) => {
    const date = new Date(at * 1000);
    const day = date.toLocaleDateString("en-GB", { weekday: "short", day: "numeric", month: "short" });
    const clock = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
    const isNewDay = day !== former;
    former = day;
    return isNewDay ? `${clock}\n${day}` : clock;
  });
}

/** Ticks of time: whole minutes, hours and days of the reader's zone, at least `spacing` seconds apart. */
export function listTimeTicks(from: number, to: number, spacing: number): number[] {
  const step = TICK_STEPS.find((each) => each >= spacing) ?? Math.ceil(spacing / DAY_SECONDS) * DAY_SECONDS;
  const ticks: number[] = [];
  // Counted from the local midnight of each day, so that ticks stay on whole hours when the clock changes.
  const midnight = new Date(from * 1000);
  midnight.setHours(0, 0, 0, 0);
  while (midnight.getTime() / 1000 <= to) {
    const start = midnight.getTime() / 1000;
    const days = Math.max(1, Math.round(step / DAY_SECONDS));
    midnight.setDate(midnight.getDate() + days);
    const end = Math.min(midnight.getTime() / 1000, to + 1);
    for (let at = start; at < end; at += Math.min(step, DAY_SECONDS * days)) if (at >= from && at <= to) ticks.push(at);
  }
  return ticks;
}

/** The texts of the ticks of values. */
export function formatValueTicks(ticks: readonly number[], unit: string): string[] {
  return ticks.map((value) => formatValue(value, unit));
}

/** Whether a threshold is so far from the values that it is named at the edge of the chart. */
export function isFarThreshold(threshold: number, low: number, high: number): boolean {
  const width = Math.max(high - low, Math.abs(high) * 0.05, Number.EPSILON);
  return threshold > high + FAR * width || threshold < low - FAR * width;
}

/** Choose the range of values: those that are seen, thresholds that are not far, and zero unless it is far below. */
export function chooseValueRange(
  low: number | null,
  high: number | null,
  thresholds: readonly Threshold[] = [],
  fromZero?: boolean,
): [number, number] {
  if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  const isZeroNear = fromZero ?? (low >= 0 && low < 0.6 * high);
  let bottom = isZeroNear ? Math.min(0, low) : low;
  let top = high;
  for (const { value } of thresholds) {
    if (isFarThreshold(value, bottom, top)) continue;
    bottom = Math.min(bottom, value);
    top = Math.max(top, value);
  }
  if (bottom === top) {
    const half = Math.abs(top) * 0.1 || 1;
    return [bottom >= 0 ? Math.max(0, bottom - half) : bottom - half, top + half];
  }
  const margin = (top - bottom) * 0.08;
  const isOnZero = bottom === 0;
  const lower = bottom - margin;
  return [isOnZero ? 0 : bottom > 0 && lower < 0 ? 0 : lower, top + margin];
}
