/** Options of uPlot for a chart. Colours, data and range are read when it draws, so it is seldom made anew. */
import uPlot from "uplot";
import { chooseValueRange, formatTimeTicks, formatValueTicks, listTimeTicks } from "./axes";
import { drawBackground, drawForeground } from "./decorations";
import type { ChartSeries, ChartSpec, TimeRange } from "./spec";
import type { ChartTheme } from "./theme";

const FONT_PIXELS = 12;
const TICK_PIXELS = 70;

export interface ChartSource {
  spec: () => ChartSpec;
  /** The stretch of time to show. */
  range: () => TimeRange;
  theme: ChartTheme;
  onDrawn: (first: number, second: number) => void;
}

/** Build the options of a chart of some size. */
export function buildOptions(source: ChartSource, width: number, height: number): uPlot.Options {
  const { theme } = source;
  const spec = source.spec();
  return {
    width,
    height,
    padding: [8, 24, 0, 0], // on the right half a label of the time axis
    legend: { show: false },
    scales: {
      x: { time: true, range: () => [source.range().from, source.range().to] },
      y: {
        range: (_plot, low, high) => chooseValueRange(low, high, source.spec().thresholds, source.spec().fromZero),
      },
    },
    series: [{}, ...spec.series.map((series) => seriesOptions(series, theme))],
    bands: (spec.bands ?? []).map(({ lower, upper, color }) => ({
      series: [upper + 1, lower + 1],
      fill: () => theme.color(color),
    })),
    axes: [timeAxis(theme), valueAxis(source)],
    cursor: {
      y: false,
      drag: { x: true, y: false, setScale: false },
      points: {
        size: (_plot, place) => (spec.series[place - 1]?.kind === "edge" ? 0 : 8),
        fill: (_plot, place) => theme.color(spec.series[place - 1]?.color ?? "--chart-history"),
      },
      bind: { dblclick: () => null }, // the zoom is shared, so it is not uPlot that ends it
    },
    hooks: {
      drawClear: [(plot) => drawBackground(plot, source.spec(), theme)],
      draw: [(plot) => drawForeground(plot, source.spec(), theme)],
      setSelect: [
        (plot) => {
          const { left, width: drawn } = plot.select;
          if (drawn > 4) source.onDrawn(plot.posToVal(left, "x"), plot.posToVal(left + drawn, "x"));
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        },
      ],
    },
  };
}

/** The columns that uPlot draws. */
export function columnsOf(spec: ChartSpec): uPlot.AlignedData {
  return [spec.times as number[], ...spec.series.map((series) => series.values as (number | null)[])];
}

function seriesOptions(series: ChartSeries, theme: ChartTheme): uPlot.Series {
  const isEdge = series.kind === "edge";
  return {
    label: series.label,
    scale: "y",
    stroke: () => theme.color(series.color),
    width: isEdge ? 0 : (series.width ?? 1.5),
    spanGaps: false,
    ...(series.dash === undefined ? {} : { dash: series.dash }),
    // a value between two gaps has no line, so it gets a point
    points: isEdge
      ? { show: false }
      : {
          show: false,
          size: 4,
          fill: () => theme.color(series.color),
          filter: (plot, place) => lonelyPlaces(plot.data[place] as (number | null)[]),
        },
  };
}

/** The places of values without a neighbour. */
export function lonelyPlaces(values: readonly (number | null | undefined)[]): number[] {
  const places: number[] = [];
  const isThere = (place: number) => typeof values[place] === "number";
  values.forEach((_, place) => {
    if (isThere(place) && !isThere(place - 1) && !isThere(place + 1)) places.push(place);
  });
  return places;
}

function timeAxis(theme: ChartTheme): uPlot.Axis {
  return {
    ...axisLook(theme),
    size: 44,
    splits: (plot, _axis, from, to) =>
      listTimeTicks(from, to, ((to - from) * TICK_PIXELS) / Math.max(plot.bbox.width / ratio(), 1)),
    values: (_plot, ticks) => formatTimeTicks(ticks),
  };
}

function valueAxis(source: ChartSource): uPlot.Axis {
  return {
    ...axisLook(source.theme),
    size: (_plot, texts) => 14 + 7 * Math.max(4, ...(texts ?? []).map((text) => text.length)),
    space: 34,
    values: (_plot, ticks) => formatValueTicks(ticks, source.spec().unit),
  };
}

function axisLook(theme: ChartTheme): uPlot.Axis {
  return {
    font: theme.font(FONT_PIXELS),
    gap: 6,
    stroke: () => theme.color("--chart-axis"),
    grid: { stroke: () => theme.color("--chart-grid"), width: 1 },
    ticks: { stroke: () => theme.color("--chart-grid"), width: 1, size: 4 },
  };
}

function ratio(): number {
  return window.devicePixelRatio || 1;
}
