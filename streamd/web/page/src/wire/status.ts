/** The answers to `v1/status` and `v1/engines`, as far as the page reads them. docs/wire.md describes each key. */
import type { Contract } from "./types";

export type Counts = Record<string, number>;

export interface LaneStatus {
  name: string;
  device: string;
  details: Record<string, unknown>;
  batches: number;
  windows: number;
  failures: number;
  busy_seconds: number;
}

export interface CandidateStatus {
  version: string;
  share: number;
  shadow: boolean;
  lanes: number;
  lanes_lost: string[];
  due: number;
  in_flight: number;
  rows: Counts;
}

export interface BatchReasonStatus {
  batches: number;
  windows: number;
  queue_delay_seconds: number;
}

export interface ProtocolStatus {
  bodies: number;
  taken: number;
  ignored: Counts;
  rejected: Counts;
  skipped: Counts;
  refused: Counts;
}

export interface ReceiverStatus {
  receiver: string;
  waiting: number;
  last_success: number | null;
}

/** `loss` and its like are null until enough of the horizon has come true. */
export interface VersionAccuracy {
  shadow: boolean;
  forecasts: number;
  scored_steps: number;
  loss: number | null;
  training_loss: number | null;
  training_fleets: string[];
  drift_ratio: number | null;
  by_range: { steps: string; loss: number | null }[];
  targets: Record<string, TargetAccuracy>;
}

export interface TargetAccuracy {
  loss: number | null;
  values: number;
  /** The share of values inside an interval such as `0.1-0.9`. */
  inside: Record<string, number | null>;
  /** The share of values at or below a quantile such as `0.1`. */
  below: Record<string, number | null>;
}

export interface PairedLoss {
  forecasts: number;
  first_loss: number | null;
  second_loss: number | null;
  /** The second loss less the first one. */
  difference: number | null;
  standard_error: number | null;
}

export interface ComparisonStatus extends PairedLoss {
  first: string;
  second: string;
  by_range: (PairedLoss & { steps: string })[];
}

export interface AccuracyStatus {
  scored_servers: number;
  held: number;
  window_steps: number;
  score_after_steps: number;
  sampled: Counts;
  versions: Record<string, VersionAccuracy>;
  comparisons: ComparisonStatus[];
}

export interface Status {
  engine: string;
  backend: string | null;
  precision: string | null;
  fallbacks: { backend: string; reason: string }[];
  backend_details?: Record<string, unknown>;
  architecture?: string;
  bucket_ms?: Record<string, number>;
  previous?: { engine: string; lanes: number } | null;
  keep_warm_seconds?: number;
  reload?: { state: string; version: string | null; error: string | null; when: number | null } | null;
  passed_over?: { name: string; rule: string; reason: string }[];
  ready: boolean;
  draining: boolean;
  workers_away: number[];
  uptime_seconds: number;
  contract: Contract;
  lanes: LaneStatus[];
  lanes_lost: string[];
  candidate: CandidateStatus | null;
  servers: number;
  capacity: number;
  ahead: { servers: number; first: { server: string; seconds: number }[] };
  due: number;
  waiting: number;
  in_flight: number;
  batches: {
    by_reason: Record<string, BatchReasonStatus>;
    by_size: Counts;
    queue_delay_seconds: number;
  };
  stall: string | null;
  predict: { calls: number; waiting: number; dropped: number };
  rows: Counts;
  samples: { accepted: number; rejected: Counts; refused_frames: Counts; ignored_features: number };
  agents: {
    protocols: Record<string, ProtocolStatus>;
    servers: number;
    series: number;
    max_series: number;
    points: number;
    max_points: number;
    rows: number;
    values: Counts;
  };
  subscribers: { now: number; waiting: number; dropped: number };
  accuracy: AccuracyStatus;
  accuracy_history: {
    servers: number;
    left_out: number;
    forecasts: number;
    scored: number;
    dropped: number;
    write_errors: number;
    problem: string | null;
  };
  alerts: {
    rules: number;
    pending: number;
    firing: number;
    /** Of those that fire. */
    silenced?: number;
    silences?: number;
    refused: number;
    failures: number;
    lag_seconds: number;
    receivers: ReceiverStatus[];
  } | null;
  access: { open: boolean; tokens: number; reloads: Counts; rejected_files: string[] };
  state_folder: { problem: string | null; unsynced_seconds: number; flush_seconds: number };
  memory: { resident_bytes: number };
  device_restarts: number;
  recovered: Record<string, unknown>;
}

/** What the accuracy gate found for one precision. */
export interface GateVerdict {
  /** null: the gate gave no verdict. */
  promotable: boolean | null;
  reasons: string[];
}

export interface EngineVersion {
  version: string;
  created_at: number | null;
  architecture: string | null;
  precisions: string[];
  training_loss: number | null;
  training_fleets: string[];
  gate: Record<string, GateVerdict>;
  is_promoted: boolean;
  is_default: boolean;
  /** Why it cannot serve; null if nothing is known against it. */
  problem: string | null;
  size_bytes: number;
}

export interface Promotion {
  kind: "promote" | "rollback";
  when: number;
  who: string;
  why: string;
  before: string | null;
  after: string | null;
}

export interface Engines {
  serving: string;
  /** The version that a rollback returns to. */
  previous: string | null;
  candidate: string | null;
  pinned: boolean;
  /** Why the folder or the record cannot be read. */
  problem: string | null;
  versions: EngineVersion[];
  history: Promotion[];
}
