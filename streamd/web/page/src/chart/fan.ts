/** The fan of a forecast: bands between pairs of quantiles, and the median. */
import type { ChartBand, ChartSeries, ColorName } from "./spec";

/** What a fan is made of: a forecast of the wire, or a past one of the accuracy history. */
export interface ForecastCurves {
  origin: number;
  step_seconds: number;
  targets: readonly string[];
  quantiles: readonly number[];
  /** `[target][step][quantile]`; null for a target that is unknown. */
  values: readonly (readonly (readonly (number | null)[])[] | null)[];
  /** The targets that no row of the window had a value of, so that the forecast says nothing about them. */
  unknown?: readonly string[];
  every?: number;
}

export interface QuantileCurve {
  quantile: number;
  values: (number | null)[];
}

export interface FanBand {
  label: string;
  lower: QuantileCurve;
  upper: QuantileCurve;
}

/** The parts of a fan, widest band first. */
export interface Fan {
  times: number[];
  bands: FanBand[];
  median: QuantileCurve | null;
}

/** Whether a forecast says nothing about a target; false without a forecast. */
export function isUnknown(forecast: Pick<ForecastCurves, "unknown"> | null, target: string): boolean {
  return forecast?.unknown?.includes(target) ?? false;
}

/** The times at which the steps of a forecast begin. */
export function stepTimes(
  forecast: Pick<ForecastCurves, "origin" | "step_seconds" | "every">,
  steps: number,
): number[] {
  const every = forecast.every ?? 1;
  return Array.from(
    { length: steps },
    (_, place) => forecast.origin + ((place + 1) * every - 1) * forecast.step_seconds,
  );
}

/** Build the fan of a target; null if the forecast has no values of it. */
export function buildFan(forecast: ForecastCurves, target: string): Fan | null {
  const rows = forecast.values[forecast.targets.indexOf(target)];
  if (rows === undefined || rows === null || rows.length === 0) return null;
  const curve = (quantile: number): QuantileCurve => {
    const place = forecast.quantiles.indexOf(quantile);
    return { quantile, values: rows.map((row) => row[place] ?? null) };
  };
  const bands = choosePairs(forecast.quantiles).map(([low, high]) => ({
    label: bandLabel(low, high),
    lower: curve(low),
    upper: curve(high),
  }));
  const middle = forecast.quantiles.find((quantile) => quantile === 0.5);
  return { times: stepTimes(forecast, rows.length), bands, median: middle === undefined ? null : curve(middle) };
}

/** Choose the widest pair of quantiles around the median, and the one nearest to 0.25 and 0.75. */
export function choosePairs(quantiles: readonly number[]): [number, number][] {
  const pairs = quantiles
    .filter((quantile) => quantile < 0.5)
    .map((low): [number, number | undefined] => [low, quantiles.find((high) => Math.abs(low + high - 1) < 1e-6)])
    .filter((pair): pair is [number, number] => pair[1] !== undefined)
    .sort((one, other) => one[0] - other[0]);
  const widest = pairs[0];
  if (widest === undefined) return [];
  const inner = pairs
    .slice(1)
    .sort((one, other) => Math.abs(one[0] - 0.25) - Math.abs(other[0] - 0.25))[0];
  return inner === undefined ? [widest] : [widest, inner];
}

/** The name of a band, such as `2–98 %`. */
export function bandLabel(low: number, high: number): string {
  return `${asPercent(low)}–${asPercent(high)} %`;
}

function asPercent(quantile: number): string {
  return String(Number((quantile * 100).toFixed(2)));
}

export interface FanColors {
  median: ColorName;
  /** Widest band first. */
  bands: readonly ColorName[];
}

/** How a fan is named and coloured: the median has the name, and each band its percents after the prefix. */
export interface FanLook {
  name: string;
  prefix: string;
  colors: FanColors;
}

const NEWEST: FanLook = {
  name: "Forecast",
  prefix: "",
  colors: { median: "--chart-median", bands: ["--chart-outer", "--chart-inner"] },
};

/**
 * Turn a fan into series and bands of a chart.
 *
 * `place` puts values on the times of the chart; `first` is how many series it has before these.
 */
export function drawFan(
  fan: Fan,
  place: (times: readonly number[], values: readonly (number | null)[]) => (number | null)[],
  first: number,
  { name, prefix, colors }: FanLook = NEWEST,
): { series: ChartSeries[]; bands: ChartBand[] } {
  const series: ChartSeries[] = [];
  const bands: ChartBand[] = [];
  const narrowFirst = fan.bands.map((band, depth) => ({ ...band, depth })).reverse(); // as the legend lists them
  narrowFirst.forEach(({ label, lower, upper, depth }) => {
    const color = colors.bands[Math.min(depth, colors.bands.length - 1)] ?? colors.median;
    const at = first + series.length;
    for (const curve of [lower, upper]) {
      const values = place(fan.times, curve.values);
      series.push({ label: `${prefix}${asPercent(curve.quantile)} %`, values, color, kind: "edge" });
    }
    bands.push({ label: `${prefix}${label}`, lower: at, upper: at + 1, color });
  });
  if (fan.median !== null) {
    series.push({ label: name, values: place(fan.times, fan.median.values), color: colors.median, width: 2 });
  }
  return { series, bands };
}

/** All times of several curves on one grid, in order, each once. */
export function joinTimes(...lists: readonly (readonly number[])[]): number[] {
  return [...new Set(lists.flat())].sort((one, other) => one - other);
}

/** A function that puts values on the times of a chart; null where a curve has no value. */
export function placeOn(grid: readonly number[]) {
  const places = new Map(grid.map((at, index) => [at, index]));
  return (times: readonly number[], values: readonly (number | null)[]): (number | null)[] => {
    const placed: (number | null)[] = new Array<number | null>(grid.length).fill(null);
    times.forEach((at, index) => {
      const place = places.get(at);
      if (place !== undefined) placed[place] = values[index] ?? null;
    });
    return placed;
  };
}
