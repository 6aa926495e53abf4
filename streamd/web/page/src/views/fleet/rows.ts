/**
 * The part of the ranked list that is loaded: frames of the daemon are merged into it, and each place of the list is a
 * signal, so that a changed row draws itself alone.
 *
 * While the reader points at the list, known places keep their rows: a list that moves under the pointer opens the wrong
 * server. What is loaded far away from the reader is forgotten.
 */
import { signal, type ReadonlySignal, type Signal } from "@preact/signals";
import type { FleetCounts, FleetFrame, FleetGroup, FleetServer } from "../../wire/types";
import type { RowRange } from "./windowing";

export type FleetRow = FleetServer | FleetGroup;

export interface Summary {
  total: number;
  matching: number;
  counts: FleetCounts;
}

/** How far from the rows in view loaded rows are kept. */
const KEPT_ROWS = 400;

export function isGroup(row: FleetRow): row is FleetGroup {
  return "prefix" in row;
}

export function nameOf(row: FleetRow): string {
  return isGroup(row) ? row.prefix : row.server;
}

export class LoadedRows {
  /** Of the newest frame; undefined until the first one. */
  readonly summary = signal<Summary | undefined>(undefined);
  /** Whether the order of the daemon is another than the one shown. */
  readonly hasOtherOrder = signal(false);
  private places = new Map<number, Signal<FleetRow | undefined>>();
  private shown = new Map<number, string>();
  private newest = new Map<number, string>();
  private rows = new Map<string, FleetRow>();

  /** The row at a place; undefined while it is not loaded. */
  place(index: number): ReadonlySignal<FleetRow | undefined> {
    return this.makePlace(index);
  }

  /** Merge a frame. Returns whether it lacks a row that the page does not have either. */
  take(frame: FleetFrame, isHeld: boolean): boolean {
    this.summary.value = { total: frame.total, matching: frame.matching, counts: frame.counts };
    for (const row of frame.groups ?? frame.servers ?? []) this.rows.set(nameOf(row), row);
    this.forgetFrom(frame.matching);
    frame.order.forEach((name, number) => {
      const index = frame.offset + number;
      this.newest.set(index, name);
      if (!this.shown.has(index)) this.shown.set(index, name);
    });
    if (!isHeld) this.apply();
    else {
      this.hasOtherOrder.value = [...this.newest].some(([index, name]) => this.shown.get(index) !== name);
      this.draw();
    }
    return frame.order.some((name) => !this.rows.has(name));
  }

  /** Show the order of the daemon. */
  apply(): void {
    for (const [index, name] of this.newest) this.shown.set(index, name);
    this.hasOtherOrder.value = false;
    this.draw();
  }

  /** Forget everything, for another choice of servers. */
  reset(): void {
    this.rows.clear();
    this.shown.clear();
    this.newest.clear();
    for (const place of this.places.values()) place.value = undefined;
    this.hasOtherOrder.value = false;
    this.summary.value = undefined;
  }

  /** Forget what is far away from the rows in view. */
  keepNear(range: RowRange): void {
    const isFar = (index: number) => index < range.first - KEPT_ROWS || index >= range.end + KEPT_ROWS;
    for (const loaded of [this.places, this.shown, this.newest])
      for (const index of loaded.keys()) if (isFar(index)) loaded.delete(index);
    const kept = new Set([...this.shown.values(), ...this.newest.values()]);
    for (const name of this.rows.keys()) if (!kept.has(name)) this.rows.delete(name);
  }

  /** The loaded place of a name; undefined where it is not loaded. */
  indexOf(name: string): number | undefined {
    for (const [index, each] of this.shown) if (each === name) return index;
    return undefined;
  }

  /** The loaded rows of a range, for what is asked about them. */
  inRange(range: RowRange): FleetRow[] {
    const rows: FleetRow[] = [];
    for (let index = range.first; index < range.end; index += 1) {
      const row = this.places.get(index)?.peek();
      if (row !== undefined) rows.push(row);
    }
    return rows;
  }

  /** The number of rows in memory. */
  get size(): number {
    return this.rows.size;
  }

  private makePlace(index: number): Signal<FleetRow | undefined> {
    const known = this.places.get(index);
    if (known !== undefined) return known;
    const name = this.shown.get(index);
    const place = signal(name === undefined ? undefined : this.rows.get(name));
    this.places.set(index, place);
    return place;
  }

  private draw(): void {
    for (const [index, name] of this.shown) {
      const row = this.rows.get(name);
      const place = this.makePlace(index);
      if (row !== undefined || place.peek() !== undefined) place.value = row;
    }
  }

  private forgetFrom(matching: number): void {
    for (const loaded of [this.shown, this.newest])
      for (const index of loaded.keys()) if (index >= matching) loaded.delete(index);
    for (const [index, place] of this.places) if (index >= matching) place.value = undefined;
  }
}
