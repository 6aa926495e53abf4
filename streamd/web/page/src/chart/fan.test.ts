import { describe, expect, test } from "vitest";
import { bandLabel, buildFan, choosePairs, drawFan, joinTimes, placeOn, stepTimes } from "./fan";

const FORECAST = {
  origin: 1000,
  step_seconds: 300,
  targets: ["cpu_user", "mem_used"],
  quantiles: [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98],
  values: [
    [
      [1, 2, 3, 4, 5, 6, 7],
      [2, 3, 4, 5, 6, 7, 8],
    ],
    null,
  ],
};

describe("the fan of a forecast", () => {
  test("begins at the origin, a step apart", () => expect(buildFan(FORECAST, "cpu_user")?.times).toEqual([1000, 1300]));
  test("has the bands 2 to 98 and 25 to 75, and the median", () => {
    const fan = buildFan(FORECAST, "cpu_user");
    expect(fan?.bands.map(({ label }) => label)).toEqual(["2–98 %", "25–75 %"]);
    expect(fan?.bands[0]?.lower.values).toEqual([1, 2]);
    expect(fan?.bands[0]?.upper.values).toEqual([7, 8]);
    expect(fan?.bands[1]?.upper.values).toEqual([5, 6]);
    expect(fan?.median?.values).toEqual([4, 5]);
  });
  test("is not there for a target without values, or of another model", () => {
    expect(buildFan(FORECAST, "mem_used")).toBeNull();
    expect(buildFan(FORECAST, "disk_usage")).toBeNull();
  });
  test("keeps to the steps that were asked for", () =>
    expect(stepTimes({ origin: 0, step_seconds: 300, every: 12 }, 2)).toEqual([3300, 6900]));
});

describe("pairs of quantiles", () => {
  test("of another model are the widest one and the one nearest to the quarters", () =>
    expect(choosePairs([0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95])).toEqual([
      [0.05, 0.95],
      [0.3, 0.7],
    ]));
  test("without a partner are left out", () => expect(choosePairs([0.1, 0.5, 0.8])).toEqual([]));
  test("may be one", () => expect(choosePairs([0.1, 0.5, 0.9])).toEqual([[0.1, 0.9]]));
  test("are named in percent", () => expect(bandLabel(0.005, 0.995)).toBe("0.5–99.5 %"));
});

describe("what is drawn", () => {
  const fan = buildFan(FORECAST, "cpu_user");
  test("each band names the places of its two edges, after the series before it", () => {
    if (fan === null) throw new Error("no fan");
    const grid = joinTimes([700, 1000], fan.times);
    const { series, bands } = drawFan(fan, placeOn(grid), 1);
    expect(bands.map(({ lower, upper }) => [lower, upper])).toEqual([
      [1, 2],
      [3, 4],
    ]);
    expect(bands.map(({ label }) => label)).toEqual(["25–75 %", "2–98 %"]);
    expect(series[(bands[0]?.upper ?? 0) - 1]?.values).toEqual([null, 5, 6]);
    expect(series.filter(({ kind }) => kind !== "edge").map(({ label }) => label)).toEqual(["Forecast"]);
  });
  test("times of all curves are in order, each once", () => expect(joinTimes([3, 1], [2, 3])).toEqual([1, 2, 3]));
  test("a value outside the times is left out", () => expect(placeOn([1, 2])([0, 2], [9, null])).toEqual([null, null]));
});
