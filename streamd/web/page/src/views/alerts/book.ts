/** The alerts as the socket sends them: those that are active, and those that have ended since the page was opened. */
import type { Alert, AlertsFrame } from "../../wire/types";

/** As many as the daemon remembers. */
const MAX_ENDED = 1_000;

/** At most one alert of a key is active. */
export function keyOf(alert: Alert): string {
  return `${alert.rule} ${alert.server}`;
}

/** Of resolved alerts there may be several of the same rule and server. */
export function historyKeyOf(alert: Alert): string {
  return `${keyOf(alert)} ${alert.starts_at}`;
}

/** Changes in place: a fleet may have as many alerts as would take long to copy for each frame. */
export class AlertBook {
  /** The pending and firing alerts by `keyOf`; undefined until the first snapshot is whole. */
  active: Map<string, Alert> | undefined;
  /** The newest first. */
  ended: Alert[] = [];
  private partial: Map<string, Alert> | undefined;

  /** A snapshot replaces what was active: what ended meanwhile is not in it. */
  apply({ snapshot, more, alerts }: AlertsFrame): void {
    if (!snapshot) {
      this.active ??= new Map();
      return this.put(this.active, alerts);
    }
    this.partial ??= new Map();
    this.put(this.partial, alerts);
    if (more) return;
    this.active = this.partial;
    this.partial = undefined;
  }

  /** Forget the part of a snapshot whose rest will not come: the connection is another one. */
  startAnew(): void {
    this.partial = undefined;
  }

  private put(active: Map<string, Alert>, alerts: readonly Alert[]): void {
    for (const alert of alerts) {
      if (alert.state !== "resolved") active.set(keyOf(alert), alert);
      else this.end(active, alert);
    }
  }

  private end(active: Map<string, Alert>, alert: Alert): void {
    active.delete(keyOf(alert));
    if (alert.starts_at === null) return; // it never fired
    this.ended.unshift(alert);
    this.ended.length = Math.min(this.ended.length, MAX_ENDED);
  }
}

/** The resolved alerts, the newest first: those that the daemon remembers, and those that the socket has sent since. */
export function mergeHistory(remembered: readonly Alert[], ended: readonly Alert[]): Alert[] {
  const byKey = new Map([...remembered, ...ended].map((alert) => [historyKeyOf(alert), alert]));
  return [...byKey.values()].sort((a, b) => (b.ends_at ?? 0) - (a.ends_at ?? 0)).slice(0, MAX_ENDED);
}
