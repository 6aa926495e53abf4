/** Whether the daemon answers calls, and since when that is so. */
import { signal } from "@preact/signals";

export interface Reach {
  isReachable: boolean;
  /** When the daemon last answered, in epoch seconds of this device; null: not yet. */
  lastAnswer: number | null;
}

export const reach = signal<Reach>({ isReachable: true, lastAnswer: null });

/** Moves each time that the daemon answers again, so that what failed meanwhile can be read. */
export const returns = signal(0);

let silence = 0;

/** When the daemon last fell silent, in milliseconds of `Date.now()`; 0: never. */
export function silentSince(): number {
  return silence;
}

/** Take note that the daemon answered. */
export function noteAnswer(at: number = Date.now() / 1000): void {
  const was = reach.peek();
  // A new value for each answer would draw the frame again with each.
  if (was.isReachable && was.lastAnswer !== null && at - was.lastAnswer < 1) return;
  reach.value = { isReachable: true, lastAnswer: at };
  if (!was.isReachable) returns.value += 1;
}

/** Take note that a call had no answer. */
export function noteSilence(): void {
  const was = reach.peek();
  if (!was.isReachable) return;
  silence = Date.now();
  reach.value = { ...was, isReachable: false };
}
