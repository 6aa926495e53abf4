/** When the next attempt begins: the waits grow, so that a daemon that starts is not asked by all pages at once. */
import { signal } from "@preact/signals";

const FIRST_MS = 250;
const LAST_MS = 10_000;

export class Retry {
  /** When the next attempt begins, in milliseconds of `Date.now()`; null while none is planned. */
  readonly at = signal<number | null>(null);
  private nextMs = FIRST_MS;
  private timer: ReturnType<typeof setTimeout> | undefined;

  get isPlanned(): boolean {
    return this.timer !== undefined;
  }

  /** Plan an attempt; without `milliseconds` after a wait that doubles each time. */
  plan(attempt: () => void, milliseconds?: number): void {
    this.cancel();
    const wait = (milliseconds ?? this.nextMs) * (0.75 + Math.random() / 2);
    this.nextMs = Math.min(this.nextMs * 2, LAST_MS);
    this.at.value = Date.now() + wait;
    this.timer = setTimeout(() => {
      this.cancel();
      attempt();
    }, wait);
  }

  cancel(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.at.value = null;
  }

  /** Begin with short waits again, after a success. */
  reset(): void {
    this.cancel();
    this.nextMs = FIRST_MS;
  }
}
