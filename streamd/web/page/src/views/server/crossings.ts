/** When the curves of a forecast reach the thresholds of rules, by the rule that the daemon uses. */
import { stepTimes, type ForecastCurves } from "../../chart/fan";
import { describeEarliest, describeWhenAndTime, isNow } from "../../format/crossings";
import { formatValue } from "../../format/values";
import type { AlertRule, CrossingTimes } from "../../wire/types";

/** What a rule calls crossed, such as `alert above 90 %`. */
export function describeLimit(rule: AlertRule): string {
  return rule.above !== undefined && rule.above !== null
    ? `${rule.rule}: above ${formatValue(rule.above, rule.unit)}`
    : `${rule.rule}: below ${formatValue(rule.below, rule.unit)}`;
}

/** The threshold of a rule. */
export function limitOf(rule: AlertRule): { value: number; isAbove: boolean } {
  const isAbove = typeof rule.above === "number";
  return { value: (isAbove ? rule.above : rule.below) ?? 0, isAbove };
}

/** When a curve first is at a threshold: between two steps it is a line; null if it never is. */
export function findCrossing(
  times: readonly number[],
  values: readonly (number | null)[],
  limit: number,
  isAbove: boolean,
): number | null {
  const isCrossed = (value: number | null | undefined) =>
    typeof value === "number" && (isAbove ? value >= limit : value <= limit);
  const place = values.findIndex(isCrossed);
  const at = times[place];
  const value = values[place];
  if (at === undefined || typeof value !== "number") return null;
  const before = values[place - 1];
  const former = times[place - 1];
  if (typeof before !== "number" || former === undefined) return at;
  return former + ((at - former) * (limit - before)) / (value - before);
}

/** The earliest, likely and latest time at which a forecast crosses the threshold of a rule. */
export function findCrossings(forecast: ForecastCurves, rule: AlertRule): CrossingTimes {
  const { value, isAbove } = limitOf(rule);
  const rows = forecast.values[forecast.targets.indexOf(rule.target)];
  if (rows === undefined || rows === null) return { earliest: null, likely: null, latest: null };
  const times = stepTimes(forecast, rows.length);
  const crossing = (wanted: number) => {
    const place = nearestPlace(forecast.quantiles, isAbove ? wanted : 1 - wanted);
    return findCrossing(times, rows.map((row) => row[place] ?? null), value, isAbove);
  };
  return { earliest: crossing(0.9), likely: crossing(0.5), latest: crossing(0.1) };
}

export interface RuleCrossing {
  rule: AlertRule;
  crossing: CrossingTimes;
}

/** Of the rules of a target, the one that is crossed first: by the likely time, then by the earliest. */
export function firstCrossing(
  rules: readonly AlertRule[],
  target: string,
  forecast: ForecastCurves,
): RuleCrossing | null {
  const order = ({ crossing }: RuleCrossing) => [crossing.likely ?? Infinity, crossing.earliest ?? Infinity] as const;
  const crossed = rules
    .filter((rule) => rule.target === target)
    .map((rule) => ({ rule, crossing: findCrossings(forecast, rule) }))
    .filter(({ crossing }) => crossing.earliest !== null)
    .sort((one, other) => compare(order(one), order(other)));
  return crossed[0] ?? null;
}

function compare(one: readonly [number, number], other: readonly [number, number]): number {
  return one[0] === other[0] ? (one[1] < other[1] ? -1 : 1) : one[0] < other[0] ? -1 : 1;
}

function nearestPlace(quantiles: readonly number[], wanted: number): number {
  let best = 0;
  quantiles.forEach((quantile, place) => {
    if (Math.abs(quantile - wanted) < Math.abs((quantiles[best] ?? 2) - wanted) - 1e-9) best = place;
  });
  return best;
}

/** When a threshold is crossed, in words; empty if no curve of the three crosses. */
export function describeCrossing(crossing: CrossingTimes, now: number): string {
  const { earliest, likely, latest } = crossing;
  const first = earliest ?? likely ?? latest;
  if (first === null) return "";
  if (likely === null) return `${describeEarliest(first, now)}, but not likely within the forecast`;
  const bounds = [
    earliest === null || earliest === likely || isNow(likely, now) ? "" : describeEarliest(earliest, now),
    latest === null || isNow(latest, now) ? "" : `latest ${describeWhenAndTime(latest, now)}`,
  ].filter((text) => text !== "");
  return `likely ${describeWhenAndTime(likely, now)}${bounds.length > 0 ? `, ${bounds.join(", ")}` : ""}`;
}
