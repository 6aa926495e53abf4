/** What a chart shows, apart from how it is drawn. Times are epoch seconds, values are in the unit of the chart. */
import { formatValue } from "../format/values";

/** The name of a CSS custom property, such as `--chart-history`. */
export type ColorName = `--${string}`;

export interface ChartSeries {
  label: string;
  /** One value for each time; null where there is none. Lines are never drawn across null. */
  values: readonly (number | null)[];
  color: ColorName;
  /** An edge of a band has no line and no entry of its own in the legend. Default: `line`. */
  kind?: "line" | "edge";
  width?: number;
  dash?: number[];
}

/** The area between two series, given by their places. */
export interface ChartBand {
  label: string;
  lower: number;
  upper: number;
  color: ColorName;
}

/** A horizontal line, such as the threshold of an alert rule. */
export interface Threshold {
  value: number;
  label: string;
  side: "above" | "below";
  color: ColorName;
}

/** A shaded stretch of time. `hatched` is for what is missing, `plain` for all else. */
export interface TimeSpan {
  from: number;
  to: number;
  label: string;
  kind: "hatched" | "plain";
  color: ColorName;
}

/** A vertical line. */
export interface TimeMark {
  at: number;
  label: string;
  color: ColorName;
  /** Where its label is; default: `top`. */
  end?: "top" | "bottom";
}

export interface ChartSpec {
  unit: string;
  times: readonly number[];
  series: readonly ChartSeries[];
  bands?: readonly ChartBand[];
  thresholds?: readonly Threshold[];
  spans?: readonly TimeSpan[];
  marks?: readonly TimeMark[];
  /** Whether the axis begins at zero; default: where the values do not lie far above it. */
  fromZero?: boolean;
}

/** A stretch of time, both ends included. */
export interface TimeRange {
  from: number;
  to: number;
}

/** One entry of the legend, and one column of the table. */
export interface LegendEntry {
  label: string;
  color: ColorName;
  shape: "line" | "band";
  dash: boolean;
  /** The numbers at a place, with their unit; a dash where there are none. */
  read: (index: number) => string;
}

/** What stands in place of a number where there is none. */
export const NO_NUMBER = "–";

/** List what the legend and the table show: the lines, then the bands. */
export function listEntries(spec: ChartSpec): LegendEntry[] {
  const lines = spec.series
    .filter((series) => series.kind !== "edge")
    .map(
      (series): LegendEntry => ({
        label: series.label,
        color: series.color,
        shape: "line",
        dash: series.dash !== undefined,
        read: (index) => formatValue(series.values[index], spec.unit),
      }),
    );
  const bands = (spec.bands ?? []).map((band): LegendEntry => {
    const lower = spec.series[band.lower]?.values ?? [];
    const upper = spec.series[band.upper]?.values ?? [];
    const read = (index: number) =>
      typeof lower[index] === "number" && typeof upper[index] === "number"
        ? joinRange(formatValue(lower[index], spec.unit), formatValue(upper[index], spec.unit))
        : NO_NUMBER;
    return { label: band.label, color: band.color, shape: "band", dash: false, read };
  });
  return [...lines, ...bands];
}

/** Two ends of a range; a unit that both have is written once, such as `39 to 94 %`. */
export function joinRange(low: string, high: string): string {
  const unit = / .+$/.exec(high)?.[0] ?? "";
  return unit !== "" && low.endsWith(unit) ? `${low.slice(0, -unit.length)} to ${high}` : `${low} to ${high}`;
}

/** The stretch of time of all points. */
export function extentOf(spec: ChartSpec): TimeRange {
  return { from: spec.times[0] ?? 0, to: spec.times[spec.times.length - 1] ?? 1 };
}

/** The place of the time that is nearest to a time, or -1 without times. */
export function nearestIndex(times: readonly number[], at: number): number {
  let low = 0;
  let high = times.length - 1;
  if (high < 0) return -1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((times[middle] ?? 0) < at) low = middle + 1;
    else high = middle;
  }
  const before = times[low - 1];
  return before !== undefined && at - before <= (times[low] ?? at) - at ? low - 1 : low;
}

/** What makes two charts differ so that one cannot just take the data of the other. */
export function shapeOf(spec: ChartSpec): string {
  const series = spec.series.map(({ label, color, kind, width, dash }) => [label, color, kind, width, dash]);
  return JSON.stringify([spec.unit, series, spec.bands]);
}
