import { describe, expect, it } from "vitest";
import type { ForecastsFrame } from "../../wire/types";
import { chooseQuantiles, type Curve, LoadedCurves } from "./curves";
import { drawSpark } from "./sparkline";

const frame = (servers: string[], values: unknown): ForecastsFrame => ({
  type: "forecasts",
  servers,
  origins: servers.map(() => 600),
  contexts: servers.map(() => 288),
  step_seconds: 300,
  model: "m",
  targets: ["cpu_user", "mem_used"],
  quantiles: [0.1, 0.5, 0.9],
  values: values as number[][][][],
  every: 4,
});

describe("quantiles", () => {
  it("are those nearest to 0.1, 0.5 and 0.9", () => {
    expect(chooseQuantiles([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])).toEqual([0.1, 0.5, 0.9]);
    expect(chooseQuantiles([0.05, 0.45, 0.95])).toEqual([0.05, 0.45, 0.95]);
    expect(chooseQuantiles([0.5])).toEqual([0.5]);
  });
});

describe("curves", () => {
  it("are taken for servers that are kept, by target", () => {
    const curves = new LoadedCurves();
    const kept = curves.of("a");
    curves.takeBatch(frame(["a", "b"], [[[[1, 2, 3], [2, 3, 4]], null], [[[9, 9, 9]], null]]));
    expect(kept.value?.get("cpu_user")).toEqual({ origin: 600, length: 2400, low: [1, 2], median: [2, 3], high: [3, 4] });
    expect(kept.value?.has("mem_used")).toBe(false);
    expect(curves.size).toBe(1);
  });

  it("are forgotten with their servers", () => {
    const curves = new LoadedCurves();
    curves.of("a");
    curves.of("b");
    curves.keep(new Set(["b"]));
    expect(curves.size).toBe(1);
  });
});

describe("the picture", () => {
  const curve = (change: Partial<Curve> = {}): Curve => ({
    origin: 0,
    length: 1200,
    low: [10, 20],
    median: [20, 40],
    high: [30, 60],
    ...change,
  });

  it("has its highest value at the top and its last one at the right", () => {
    const spark = drawSpark(curve(), 100, 52, null);
    expect(spark?.band).toBe("M50.0,31.0L100.0,1.0L100.0,41.0L50.0,51.0Z");
    expect(spark?.median).toBe("M50.0,41.0L100.0,21.0");
  });

  it("has a threshold that is near, and none that is far", () => {
    expect(drawSpark(curve(), 100, 52, 110)?.threshold).toBe(1);
    expect(drawSpark(curve(), 100, 52, 1000)?.threshold).toBeNull();
    expect(drawSpark(curve(), 100, 52, 35)?.threshold).toBe(26);
  });

  it("draws a quiet curve as a quiet one", () => {
    const quiet = drawSpark(curve({ low: [50, 50], median: [50, 50.1], high: [50, 50.2] }), 100, 52, null);
    const heights = [...(quiet?.median.matchAll(/,([\d.]+)/g) ?? [])].map((match) => Number(match[1]));
    expect(Math.abs((heights[0] ?? 0) - (heights[1] ?? 99))).toBeLessThan(2);
  });

  it("is nothing without values", () => {
    expect(drawSpark(curve({ low: [NaN], median: [NaN], high: [NaN] }), 100, 52, null)).toBeNull();
  });
});
