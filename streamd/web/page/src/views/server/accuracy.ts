/** Past forecasts of a server beside what came true, and their scores in words. */
import type { ForecastCurves } from "../../chart/fan";
import { formatValue, formatWhole, round } from "../../format/values";

/** One past forecast; `values[target][step][quantile]`, null for a target that was unknown; `truth[target][step]`. */
export interface PastForecast {
  origin: number;
  model: string;
  values: (number[][] | null)[];
  unknown?: string[];
  truth: (number | null)[][];
  is_complete: boolean;
}

export interface Score {
  target: string;
  /** Steps ahead, such as `1-24`. */
  range: string;
  loss: number;
  /** The share of values between the lowest and the highest of the three quantiles. */
  coverage: number;
  mae: number;
  count: number;
}

export interface PastScore extends Score {
  origin: number;
  model: string;
}

/** The answer of `GET /v1/accuracy?server=NAME`. */
export interface ServerAccuracy {
  server: string;
  step_seconds: number;
  targets: string[];
  quantiles: number[];
  every?: number;
  forecasts: PastForecast[];
  scores: PastScore[];
  summary: Score[];
}

/** A past forecast in the form of a newest one. */
export function curvesOf(accuracy: ServerAccuracy, past: PastForecast): ForecastCurves {
  const { step_seconds, targets, quantiles, every } = accuracy;
  return {
    origin: past.origin,
    step_seconds,
    targets,
    quantiles,
    values: past.values,
    unknown: past.unknown ?? [],
    ...(every === undefined ? {} : { every }),
  };
}

/** The origin of the forecast that was made nearest to a day before a time; null without any. */
export function yesterdayOrigin(forecasts: readonly PastForecast[], present: number): number | null {
  const wanted = present - 86_400;
  let best: number | null = null;
  for (const { origin } of forecasts) {
    if (best === null || Math.abs(origin - wanted) < Math.abs(best - wanted)) best = origin;
  }
  return best;
}

export interface Held {
  inside: number;
  count: number;
  /** The share of values that the band should hold. */
  wanted: number;
}

/** Count the values that came true within the outer band of a past forecast. */
export function countHeld(accuracy: ServerAccuracy, past: PastForecast, target: string): Held {
  const place = accuracy.targets.indexOf(target);
  const rows = past.values[place] ?? [];
  const truth = past.truth[place] ?? [];
  const wanted = bandShare(accuracy.quantiles);
  let inside = 0;
  let count = 0;
  truth.forEach((value, step) => {
    const row = rows[step];
    if (value === null || row === undefined) return;
    count += 1;
    const [low, high] = [row[0], row[row.length - 1]];
    if (low !== undefined && high !== undefined && value >= low && value <= high) inside += 1;
  });
  return { inside, count, wanted };
}

/** The share of values that lies between the lowest and the highest quantile. */
export function bandShare(quantiles: readonly number[]): number {
  return Number(((quantiles[quantiles.length - 1] ?? 1) - (quantiles[0] ?? 0)).toFixed(4));
}

/** What a past forecast said of a target, and what came true, in words. */
export function describePast(accuracy: ServerAccuracy, past: PastForecast, target: string): string {
  if (past.unknown?.includes(target)) return "unknown, since no value had come";
  return describeHeld(countHeld(accuracy, past, target));
}

/** What the band of a past forecast held, in words. */
export function describeHeld({ inside, count, wanted }: Held): string {
  if (count === 0) return "nothing has come true yet";
  return `${inside} of ${count} values lay in its ${percent(wanted)} band`;
}

export type Verdict = "as it should be" | "too narrow" | "too wide" | "too few values";

/** Fewer values than those of five forecasts of eight hours say little. */
const FEW_VALUES = 480;

/** Judge coverage. Values of one server that follow each other are alike, so few tell nothing and the margin is wide. */
export function judgeCoverage(coverage: number, wanted: number, count: number): Verdict {
  if (count < FEW_VALUES) return "too few values";
  const margin = 0.08;
  if (coverage < wanted - margin) return "too narrow";
  return coverage > wanted + margin ? "too wide" : "as it should be";
}

const VERDICT_WORDS: Record<Verdict, string> = {
  "as it should be": "as it should be",
  "too narrow": "too narrow, so expect surprises",
  "too wide": "wider than it had to be",
  "too few values": "too few to judge",
};

/** Such as `The 80 % band held 79 % of 2,688 values: as it should be.` */
export function describeCoverage(score: Score, wanted: number): string {
  const counted = `${formatWhole(score.count)} values`;
  const verdict = VERDICT_WORDS[judgeCoverage(score.coverage, wanted, score.count)];
  return `The ${percent(wanted)} band held ${percent(score.coverage)} of ${counted}: ${verdict}.`;
}

/** Such as `The median was off by 1.2 MB/s on average.`; of percent in points, since a share could be meant. */
export function describeError(score: Score, unit: string): string {
  const error = unit === "percent" ? `${round(score.mae)} percentage points` : formatValue(score.mae, unit);
  return `The median was off by ${error} on average.`;
}

/** The scores over the whole horizon, one for each target. */
export function wholeScores(summary: readonly Score[]): Score[] {
  const whole = new Map<string, Score>(); // the last of each target is the one over the whole horizon
  for (const score of summary) whole.set(score.target, score);
  return [...whole.values()];
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}
