/** Charts that move together: one crosshair and one zoom for all of them. The arithmetic of zooming is pure. */
import { signal, type Signal } from "@preact/signals";
import type { TimeRange } from "./spec";

/** A zoom shows at least this many seconds. */
const NARROWEST_SECONDS = 600;

export interface ChartGroup {
  /** The time under the crosshair; null while there is none. */
  cursor: Signal<number | null>;
  /** What is zoomed to; null shows everything. */
  zoom: Signal<TimeRange | null>;
}

/** Make a group; charts that get the same one share crosshair and zoom. */
export function createChartGroup(zoom: TimeRange | null = null): ChartGroup {
  return { cursor: signal<number | null>(null), zoom: signal<TimeRange | null>(zoom) };
}

/** Narrow (factor below 1) or widen a range around a time that keeps its place; null if all is seen then. */
export function scaleRange(range: TimeRange, factor: number, around: number, extent: TimeRange): TimeRange | null {
  const width = Math.max((range.to - range.from) * factor, NARROWEST_SECONDS);
  const share = (around - range.from) / Math.max(range.to - range.from, 1);
  return clampRange({ from: around - width * share, to: around + width * (1 - share) }, extent);
}

/** Move a range by a share of its width. */
export function moveRange(range: TimeRange, share: number, extent: TimeRange): TimeRange | null {
  const shift = (range.to - range.from) * share;
  return clampRange({ from: range.from + shift, to: range.to + shift }, extent);
}

/** Move a range into the extent, and keep its width if that is possible; null if it covers the extent. */
export function clampRange(range: TimeRange, extent: TimeRange): TimeRange | null {
  const width = range.to - range.from;
  if (width >= extent.to - extent.from) return null;
  const from = Math.min(Math.max(range.from, extent.from), extent.to - width);
  return { from, to: from + width };
}

/** Order two ends that were drawn, and widen what is too narrow to be meant; null if it was a click. */
export function drawnRange(first: number, second: number, extent: TimeRange): TimeRange | null {
  const from = Math.min(first, second);
  const to = Math.max(first, second);
  const lacking = Math.max(0, NARROWEST_SECONDS - (to - from)) / 2;
  return clampRange({ from: from - lacking, to: to + lacking }, extent);
}
