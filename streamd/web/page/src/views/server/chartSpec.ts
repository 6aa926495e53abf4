/** The chart of one target: what was measured, the fan, thresholds, and a past forecast if one is chosen. */
import { buildFan, drawFan, joinTimes, placeOn, type FanLook, type ForecastCurves } from "../../chart/fan";
import type { ChartBand, ChartSeries, ChartSpec, ColorName, Threshold, TimeMark, TimeSpan } from "../../chart/spec";
import { formatTime } from "../../format/times";
import type { AlertRule, ServerWindow, Severity } from "../../wire/types";
import { curvesOf, type PastForecast, type ServerAccuracy } from "./accuracy";
import { describeLimit, firstCrossing, limitOf, type RuleCrossing } from "./crossings";
import { missingSpans, readColumn, type Column } from "./history";

export interface TargetSource {
  target: string;
  unit: string;
  window: ServerWindow;
  forecast: ForecastCurves | null;
  rules: readonly AlertRule[];
  past: { accuracy: ServerAccuracy; forecast: PastForecast } | null;
  /** The present; whole minutes are enough. */
  now: number;
  isStale: boolean;
}

const SEVERITY_COLORS: Record<Severity, ColorName> = {
  critical: "--critical",
  warning: "--warning",
  info: "--info",
};

/** Build the chart of a target. */
export function buildTargetSpec(source: TargetSource): ChartSpec {
  const { target, unit, window, forecast, past } = source;
  const measured = extendBack(readColumn(window, target), source);
  const fan = forecast === null ? null : buildFan(forecast, target);
  const pastFan = past === null ? null : buildFan(curvesOf(past.accuracy, past.forecast), target);
  const times = joinTimes(measured.times, fan?.times ?? [], pastFan?.times ?? []);
  const place = placeOn(times);
  const ahead = forecast === null ? null : firstCrossing(source.rules, target, forecast);
  const drawn = fan === null ? NOTHING : drawFan(fan, place, 1);
  const old = pastFan === null ? NOTHING : drawFan(pastFan, place, 1 + drawn.series.length, PAST);
  return {
    unit,
    times,
    series: [
      { label: "Measured", values: place(measured.times, measured.values), color: "--chart-history" },
      ...drawn.series,
      ...old.series.map((series): ChartSeries => (series.kind === "edge" ? series : { ...series, dash: [5, 3] })),
    ],
    bands: [...drawn.bands, ...old.bands],
    thresholds: thresholdsOf(source),
    spans: [
      ...missingSpans(measured, window.step_seconds, source.isStale ? source.now : null),
      ...(ahead === null ? [] : [crossingSpan(source, ahead)]),
    ],
    marks: [...nowMark(times, source.now), ...likelyMark(source, ahead)],
  };
}

const NOTHING: { series: ChartSeries[]; bands: ChartBand[] } = { series: [], bands: [] };
const PAST: FanLook = {
  name: "Past forecast",
  prefix: "Past ",
  colors: { median: "--chart-past", bands: ["--chart-past-band"] },
};

/** What came true before the window begins, for a past forecast that is older. */
function extendBack(column: Column, { target, past }: TargetSource): Column {
  if (past === null) return column;
  const { accuracy, forecast } = past;
  const truth = forecast.truth[accuracy.targets.indexOf(target)] ?? [];
  const first = column.times[0] ?? Infinity;
  const older = truth
    .map((value, step) => ({ at: forecast.origin + step * accuracy.step_seconds, value }))
    .filter(({ at }) => at < first);
  return {
    times: [...older.map(({ at }) => at), ...column.times],
    values: [...older.map(({ value }) => value), ...column.values],
  };
}

function thresholdsOf({ rules, target }: TargetSource): Threshold[] {
  return rules
    .filter((rule) => rule.target === target)
    .map((rule) => {
      const { value, isAbove } = limitOf(rule);
      const color = SEVERITY_COLORS[rule.severity];
      return { value, label: describeLimit(rule), side: isAbove ? "above" : "below", color };
    });
}

/** From the earliest crossing to the latest, or to the end of the forecast where the latest is not known. */
function crossingSpan({ forecast }: TargetSource, { rule, crossing }: RuleCrossing): TimeSpan {
  const { origin = 0, step_seconds: step = 0, values = [], targets = [] } = forecast ?? {};
  const end = origin + ((values[targets.indexOf(rule.target)]?.length ?? 1) - 1) * step;
  const from = crossing.earliest ?? end;
  const to = Math.max(crossing.latest ?? end, from + step);
  const label = crossing.likely === null ? rule.rule : ""; // else the line of the likely time says more
  return { from, to, label, kind: "plain", color: "--chart-crossing" };
}

/** When the median crosses, unless it has. */
function likelyMark({ now }: TargetSource, ahead: RuleCrossing | null): TimeMark[] {
  const at = ahead?.crossing.likely ?? null;
  if (ahead === null || at === null || at <= now) return [];
  return [{ at, label: `likely ${formatTime(at, now)}`, color: SEVERITY_COLORS[ahead.rule.severity], end: "bottom" }];
}

function nowMark(times: readonly number[], now: number): TimeMark[] {
  const last = times[times.length - 1];
  return last === undefined || now > last ? [] : [{ at: now, label: "now", color: "--chart-now" }];
}
