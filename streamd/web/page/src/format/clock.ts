/** The present, by the clock of the daemon: ages and times until a threshold are right though this device's is wrong. */
import { signal } from "@preact/signals";

/** A difference up to this is the way to the daemon, the whole seconds of its header, or too little to matter. */
const TOLERANCE_SECONDS = 5;

const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const TICK_MS = isCalm ? 10_000 : 1_000;

/** How far the clock of the daemon is ahead of this device's, in seconds; 0 while that does not matter. */
export const skew = signal(0);

/** The present, in epoch seconds. Moves once a second; every ten seconds if the reader wants less motion. */
export const now = signal(Date.now() / 1000);

function tick(): void {
  now.value = Date.now() / 1000 + skew.peek();
}

setInterval(tick, TICK_MS);
document.addEventListener("visibilitychange", tick); // timers of a hidden tab are slow

/** Take note of the time that an answer of the daemon has, in epoch seconds; one that cannot be read is ignored. */
export function noteDaemonTime(at: number, here: number = Date.now() / 1000): void {
  if (!Number.isFinite(at)) return;
  const ahead = at - here;
  const next = Math.abs(ahead) <= TOLERANCE_SECONDS ? 0 : Math.round(ahead);
  if (Math.abs(next - skew.peek()) <= 1 && next !== 0) return; // whole seconds in the header: no jitter
  if (next === skew.peek()) return;
  skew.value = next;
  tick();
}
