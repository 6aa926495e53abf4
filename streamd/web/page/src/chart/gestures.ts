/** Zoom and crosshair by wheel, touch and keys. Each handler returns what to do, so that the chart decides. */
import { moveRange, scaleRange } from "./group";
import type { TimeRange } from "./spec";

export type Intent = { kind: "zoom"; range: TimeRange | null } | { kind: "cursor"; step: number } | { kind: "none" };

/** What a key means for a chart that shows `range` of `extent`, with the crosshair at `cursor`. */
export function readKey(
  key: string,
  isShift: boolean,
  range: TimeRange,
  extent: TimeRange,
  cursor: number | null,
): Intent {
  const around = cursor !== null && cursor >= range.from && cursor <= range.to ? cursor : (range.from + range.to) / 2;
  switch (key) {
    case "+":
    case "=":
      return { kind: "zoom", range: scaleRange(range, 0.5, around, extent) };
    case "-":
    case "_":
      return { kind: "zoom", range: scaleRange(range, 2, around, extent) };
    case "0":
      return { kind: "zoom", range: null };
    case "ArrowLeft":
      return isShift ? { kind: "zoom", range: moveRange(range, -0.25, extent) } : { kind: "cursor", step: -1 };
    case "ArrowRight":
      return isShift ? { kind: "zoom", range: moveRange(range, 0.25, extent) } : { kind: "cursor", step: 1 };
    case "PageUp":
      return { kind: "cursor", step: -12 };
    case "PageDown":
      return { kind: "cursor", step: 12 };
    default:
      return { kind: "none" };
  }
}

/** How a wheel with the control key (or a pinch on a touch pad) scales the range. */
export function wheelFactor(deltaY: number): number {
  return Math.exp(Math.max(-60, Math.min(60, deltaY)) * 0.01);
}

export interface TouchTarget {
  /** The time at a position across the plot, in CSS pixels from its left edge. */
  timeAt: (left: number) => number;
  extent: () => TimeRange;
  onZoom: (range: TimeRange | null) => void;
  /** One finger is at this position. */
  onCursor: (left: number) => void;
}

/** Let one finger move the crosshair, and two zoom and move. Returns a function that ends it. */
export function attachTouch(element: HTMLElement, target: TouchTarget): () => void {
  const fingers = new Map<number, number>();
  let held: [number, number] | null = null; // the two times that the fingers hold
  const place = (event: PointerEvent) => event.clientX - element.getBoundingClientRect().left;
  const down = (event: PointerEvent) => {
    if (event.pointerType !== "touch") return;
    fingers.set(event.pointerId, place(event));
    const [first, second] = [...fingers.values()];
    held = first !== undefined && second !== undefined ? [target.timeAt(first), target.timeAt(second)] : null;
    if (held === null) target.onCursor(place(event));
  };
  const move = (event: PointerEvent) => {
    if (!fingers.has(event.pointerId)) return;
    fingers.set(event.pointerId, place(event));
    const [first, second] = [...fingers.values()];
    if (held === null || first === undefined || second === undefined) target.onCursor(place(event));
    else target.onZoom(pinchRange(held, [first, second], element.clientWidth, target.extent()));
  };
  const up = (event: PointerEvent) => {
    fingers.delete(event.pointerId);
    held = null;
  };
  const listeners = { pointerdown: down, pointermove: move, pointerup: up, pointercancel: up } as const;
  for (const [name, listener] of Object.entries(listeners)) element.addEventListener(name as "pointerdown", listener);
  return () => {
    for (const [name, listener] of Object.entries(listeners)) {
      element.removeEventListener(name as "pointerdown", listener);
    }
  };
}

/** The range in which two times lie under two fingers; null if it covers everything. */
export function pinchRange(
  times: readonly [number, number],
  places: readonly [number, number],
  width: number,
  extent: TimeRange,
): TimeRange | null {
  const apart = Math.abs(places[1] - places[0]) < 8 ? 8 : places[1] - places[0];
  const secondsAPixel = (times[1] - times[0]) / apart;
  if (!(secondsAPixel > 0)) return extent.to > extent.from ? { ...extent } : null;
  const from = times[0] - places[0] * secondsAPixel;
  const wanted = { from, to: from + width * secondsAPixel };
  return scaleRange(wanted, 1, (wanted.from + wanted.to) / 2, extent);
}
