/** The messages of the wire that the page reads. docs/wire.md of the daemon describes each. */

export interface Contract {
  features: string[];
  targets: string[];
  units: Record<string, string>;
  quantiles: number[];
  context_length: number;
  horizon: number;
  step_seconds: number;
  need: number;
  late_steps: number;
}

/** Times in epoch seconds; null where the curve does not cross in the horizon. */
export interface CrossingTimes {
  earliest: number | null;
  likely: number | null;
  latest: number | null;
}

export type Severity = "info" | "warning" | "critical";
export type AlertState = "pending" | "firing" | "resolved";

export interface Alert {
  rule: string;
  server: string;
  state: AlertState;
  severity: Severity;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  target: string;
  unit: string;
  quantile: number;
  above?: number;
  below?: number;
  within_seconds: number;
  starts_at: number | null;
  ends_at: number | null;
  reason: string;
  origin: number;
  model: string;
  crosses_at: CrossingTimes;
  seconds_until: CrossingTimes;
  updated_at: number;
  silenced_until?: number | null;
}

export interface AlertRule {
  rule: string;
  target: string;
  unit: string;
  above?: number;
  below?: number;
  quantile: number;
  within_seconds: number;
  for: number;
  hysteresis: number;
  min_rows: number;
  servers: string[];
  severity: Severity;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  /** Of one server: its newest forecast does not know the target, so the rule has no state. */
  unknown?: true;
}

export interface Silence {
  id: string;
  servers: string[];
  /** Null: all rules. */
  rules: string[] | null;
  starts_at: number;
  ends_at: number;
  who: string;
  why: string;
}

export type Condition = "warming" | "pending" | "stale" | "current";

export interface Crossing {
  rule: string;
  target: string;
  unit: string;
  above?: number;
  below?: number;
  severity: Severity;
  crosses_at: CrossingTimes;
  /** Present in groups. */
  server?: string;
}

export interface FleetAlert {
  rule: string;
  state: AlertState;
  severity: Severity;
  starts_at: number | null;
  silenced_until: number | null;
}

export interface FleetServer {
  server: string;
  condition: Condition;
  have: number;
  need: number;
  /** The end of the newest row. */
  origin: number | null;
  forecast_origin: number | null;
  /** Targets that no agent sends any more. */
  missing: string[];
  /** Targets without any value in the window, of which nothing is forecast. */
  unknown: string[];
  /** The crossing that matters most. */
  crossing: Crossing | null;
  /** The others, the first one first. */
  further: Crossing[];
  alerts: FleetAlert[];
}

export interface FleetGroup {
  prefix: string;
  servers: number;
  firing: number;
  pending: number;
  stale: number;
  warming: number;
  current: number;
  crossing: Crossing | null;
}

/** The choice of a list of servers: a condition, or `firing` for those with a firing alert that is not silenced. */
export type FleetFilter = Condition | "firing";

export interface FleetQuery {
  search?: string;
  /** Only the servers of the group with exactly this prefix. */
  prefix?: string;
  target?: string;
  rule?: string;
  condition?: FleetFilter[];
  sort?: "worst" | "name" | "age";
  group?: boolean;
  offset?: number;
  limit?: number;
}

export interface FleetCounts {
  firing: number;
  pending: number;
  stale: number;
  warming: number;
  current: number;
}

export interface FleetFrame {
  type: "fleet";
  now: number;
  total: number;
  matching: number;
  offset: number;
  counts: FleetCounts;
  /** The names, or prefixes, in view. */
  order: string[];
  /** Those that changed since the last frame. */
  servers?: FleetServer[];
  groups?: FleetGroup[];
}

export interface ForecastQuery {
  servers: string[];
  targets?: string[];
  quantiles?: number[];
  every?: number;
  batch?: boolean;
  /** With `batch`: the wait after a frame, in which forecasts gather for the next one. */
  interval_seconds?: number;
}

export interface ForecastFrame {
  type: "forecast";
  server: string;
  origin: number;
  step_seconds: number;
  model: string;
  targets: string[];
  quantiles: number[];
  /** `[target][step][quantile]`; null for a target that is unknown. */
  values: (number[][] | null)[];
  /** The targets that no row of the window had a value of; absent where all are known. */
  unknown?: string[];
  context: number;
  every?: number;
  id?: number;
}

export interface ForecastsFrame {
  type: "forecasts";
  servers: string[];
  origins: number[];
  contexts: number[];
  step_seconds: number;
  model: string | string[];
  targets: string[];
  quantiles: number[];
  /** `[forecast][target][step][quantile]`; null for a target that is unknown. */
  values: (number[][] | null)[][];
  /** For each forecast the targets that are unknown; absent where all are known. */
  unknown?: string[][];
  every?: number;
  id?: number;
}

export interface AlertsFrame {
  type: "alerts";
  snapshot: boolean;
  more: boolean;
  alerts: Alert[];
}

export interface ServerWindow {
  server: string;
  step_seconds: number;
  origin: number;
  have: number;
  features: string[];
  /** `[row][feature]`, oldest row first. */
  values: (number | null)[][];
}
