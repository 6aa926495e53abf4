/** Rows and frames for the tests of this folder. */
import type { Crossing, FleetFrame, FleetServer } from "../../wire/types";

export function makeServer(server: string, change: Partial<FleetServer> = {}): FleetServer {
  return {
    server,
    condition: "current",
    have: 288,
    need: 48,
    origin: 1000,
    forecast_origin: 1000,
    missing: [],
    unknown: [],
    crossing: null,
    further: [],
    alerts: [],
    ...change,
  };
}

/** A frame of these servers; all of them are sent unless `sent` names some. */
export function makeFrame(order: string[], change: Partial<FleetFrame> & { sent?: string[] } = {}): FleetFrame {
  const { sent, ...rest } = change;
  return {
    type: "fleet",
    now: Date.now() / 1000,
    total: 1000,
    matching: 1000,
    offset: 0,
    counts: { firing: 0, pending: 0, stale: 0, warming: 0, current: 1000 },
    order,
    servers: (sent ?? order).map((name) => makeServer(name)),
    ...rest,
  };
}

export function makeCrossing(change: Partial<Crossing> = {}): Crossing {
  return {
    rule: "disk_fills",
    target: "disk_usage",
    unit: "percent",
    above: 90,
    severity: "warning",
    crosses_at: { earliest: 2000, likely: 5000, latest: null },
    ...change,
  };
}
