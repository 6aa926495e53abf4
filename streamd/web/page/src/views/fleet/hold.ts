/** Whether the order of the list must stay: the reader points at it, or moves in it by keys, and did so lately. */

/** A pointer that rests on the list does not keep an old order for longer. */
export const HOLD_MS = 15_000;

export class Hold {
  private isInside = false;
  private hasFocus = false;
  private lastMs = -Infinity;

  /** Note that the pointer moves over the list, at a time in milliseconds. */
  point(nowMs: number): void {
    this.isInside = true;
    this.lastMs = nowMs;
  }

  leave(): void {
    this.isInside = false;
  }

  /** Note a key in the list. */
  press(nowMs: number): void {
    this.hasFocus = true;
    this.lastMs = nowMs;
  }

  blur(): void {
    this.hasFocus = false;
  }

  isHeld(nowMs: number): boolean {
    return (this.isInside || this.hasFocus) && nowMs - this.lastMs < HOLD_MS;
  }
}
