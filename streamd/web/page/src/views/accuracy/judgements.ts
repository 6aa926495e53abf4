/** Scores in words: coverage against what it should be, drift against training, when the first scores come. Pure. */
import { FEW_FORECASTS } from "../../format/comparisons";
import { formatCount } from "../../format/names";
import { formatDuration } from "../../format/times";
import type { Tone } from "../../ui/basics";
import type { AccuracyStatus, VersionAccuracy } from "../../wire/status";

/** The ratio above which docs/runbook/StreamdModelDrifts.md wants a look. */
export const DRIFT_LIMIT = 1.5;

export interface Judgement {
  tone: Tone;
  words: string;
}

/** The share that an interval such as `0.1-0.9` should hold: 0.8. */
export function nominalShare(interval: string): number {
  const [low = "0", high = "1"] = interval.split("-");
  return Number((Number(high) - Number(low)).toFixed(6));
}

/** How far a share may lie from the nominal one: a quarter of what may lie outside, but 2 to 8 points. */
export function coverageTolerance(nominal: number): number {
  return Math.min(Math.max((1 - nominal) / 4, 0.02), 0.08);
}

/** Whether an interval holds as often as it should. */
export function judgeCoverage(share: number | null, nominal: number, forecasts: number): Judgement {
  if (share === null) return { tone: "muted", words: "no value yet" };
  if (forecasts < FEW_FORECASTS) return { tone: "muted", words: "too early to judge" };
  const tolerance = coverageTolerance(nominal);
  if (share < nominal - tolerance) return { tone: "warning", words: "too narrow" };
  return share > nominal + tolerance ? { tone: "info", words: "too wide" } : { tone: "good", words: "as it should be" };
}

/** The interval whose share is nearest to 80 %: the one that people read first. */
export function mainInterval(intervals: readonly string[]): string | undefined {
  const distance = (interval: string) => Math.abs(nominalShare(interval) - 0.8);
  return [...intervals].sort((first, second) => distance(first) - distance(second))[0];
}

/** The share that an interval held over all targets, each by its number of values; null without any. */
export function meanCoverage(version: VersionAccuracy, interval: string): number | null {
  const targets = Object.values(version.targets).filter((target) => target.values > 0 && target.inside[interval] != null);
  const values = targets.reduce((sum, target) => sum + target.values, 0);
  const held = targets.reduce((sum, target) => sum + target.values * (target.inside[interval] ?? 0), 0);
  return values === 0 ? null : held / values;
}

/** How the live loss stands to that of training. */
export function judgeDrift({ drift_ratio, forecasts }: VersionAccuracy): Judgement {
  if (drift_ratio === null) return { tone: "muted", words: "not known yet" };
  if (forecasts < FEW_FORECASTS) return { tone: "muted", words: "too early to judge" };
  if (drift_ratio > DRIFT_LIMIT) return { tone: "warning", words: "much above training" };
  if (drift_ratio > 1.15) return { tone: "neutral", words: "above training" };
  return drift_ratio < 0.85 ? { tone: "good", words: "below training" } : { tone: "good", words: "as in training" };
}

/** A range of steps ahead as time: `1-12` at 300 s a step is `to 1 h`. */
export function describeRange(steps: string, stepSeconds: number): string {
  const last = Number(steps.split("-")[1] ?? steps);
  return `to ${formatDuration(last * stepSeconds)}`;
}

/** The seconds after a forecast until its first step is scored, and until its whole horizon is. */
export function scoringDelays(
  accuracy: AccuracyStatus,
  horizon: number,
  stepSeconds: number,
): { first: number; whole: number } {
  const settle = accuracy.score_after_steps;
  return { first: (1 + settle) * stepSeconds, whole: (horizon + settle) * stepSeconds };
}

/** The time over which scores are kept: `the last day`, `the last 2 d`. */
export function describePeriod(seconds: number): string {
  return seconds === 86_400 ? "the last day" : `the last ${formatDuration(seconds)}`;
}

/** The accuracy of a version in one sentence. */
export function describeVersion(version: VersionAccuracy, accuracy: AccuracyStatus, stepSeconds: number): string {
  const period = describePeriod(accuracy.window_steps * stepSeconds);
  const over = `over ${formatCount(version.forecasts, "forecast")} of ${period}`;
  if (version.loss === null) return `No loss of the whole horizon yet, ${over}.`;
  const loss = `Its loss is ${version.loss.toFixed(3)} ${over}`;
  if (version.drift_ratio === null) return `${loss}; that of its training is not known.`;
  return `${loss}: ${version.drift_ratio.toFixed(2)} times that of its training.`;
}
