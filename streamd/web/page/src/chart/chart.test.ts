import { describe, expect, test } from "vitest";
import { chooseValueRange, formatTimeTicks, formatValueTicks, isFarThreshold, listTimeTicks } from "./axes";
import { pinchRange, readKey, wheelFactor } from "./gestures";
import { clampRange, drawnRange, moveRange, scaleRange } from "./group";
import { lonelyPlaces } from "./options";
import { joinRange, listEntries, nearestIndex, shapeOf, type ChartSpec } from "./spec";

const DAY = { from: 0, to: 86_400 };
const at = (text: string) => Date.parse(text) / 1000;

describe("zoom", () => {
  test("the time around which a range is narrowed keeps its place", () => {
    const range = scaleRange(DAY, 0.5, 21_600, DAY);
    expect(range).toEqual({ from: 10_800, to: 54_000 });
  });
  test("a range is never narrower than ten minutes", () => {
    const range = scaleRange({ from: 1000, to: 1700 }, 0.01, 1350, DAY);
    expect((range?.to ?? 0) - (range?.from ?? 0)).toBeCloseTo(600);
  });
  test("zooming out beyond everything shows everything", () => expect(scaleRange(DAY, 2, 100, DAY)).toBeNull());
  test("a range that is moved stops at the end and keeps its width", () => {
    expect(moveRange({ from: 80_000, to: 84_000 }, 5, DAY)).toEqual({ from: 82_400, to: 86_400 });
    expect(moveRange({ from: 1000, to: 5000 }, -5, DAY)).toEqual({ from: 0, to: 4000 });
  });
  test("a range inside is kept", () => expect(clampRange({ from: 1, to: 9 }, DAY)).toEqual({ from: 1, to: 9 }));
  test("a range that was drawn from right to left is the same", () =>
    expect(drawnRange(9000, 3000, DAY)).toEqual({ from: 3000, to: 9000 }));
  test("two fingers keep the times that they hold", () => {
    const range = pinchRange([20_000, 40_000], [100, 300], 400, DAY);
    expect(range).toEqual({ from: 10_000, to: 50_000 });
  });
  test("the wheel narrows one way and widens the other", () => {
    expect(wheelFactor(-20) * wheelFactor(20)).toBeCloseTo(1);
    expect(wheelFactor(-20)).toBeLessThan(1);
  });
});

describe("keys", () => {
  const range = { from: 20_000, to: 40_000 };
  test("arrows move the crosshair, with shift the range", () => {
    expect(readKey("ArrowLeft", false, range, DAY, null)).toEqual({ kind: "cursor", step: -1 });
    expect(readKey("ArrowRight", true, range, DAY, null)).toEqual({ kind: "zoom", range: { from: 25_000, to: 45_000 } });
  });
  test("plus narrows around the crosshair, 0 shows everything", () => {
    expect(readKey("+", false, range, DAY, 20_000)).toEqual({ kind: "zoom", range: { from: 20_000, to: 30_000 } });
    expect(readKey("0", false, range, DAY, null)).toEqual({ kind: "zoom", range: null });
  });
  test("other keys are left to the page", () =>
    expect(readKey("g", false, range, DAY, null)).toEqual({ kind: "none" }));
});

describe("axes", () => {
  test("ticks of time are whole hours of the reader's zone", () => {
    const ticks = listTimeTicks(at("2026-03-10T06:07:00Z"), at("2026-03-10T15:00:00Z"), 9000);
    expect(formatTimeTicks(ticks)).toEqual(["09:00\nTue 10 Mar", "12:00", "15:00"]);
  });
  test("they stay on whole hours where the clock changes", () => {
    const ticks = listTimeTicks(at("2026-03-28T20:00:00Z"), at("2026-03-29T12:00:00Z"), 20_000);
    const days = formatTimeTicks(ticks);
    expect(days[0]).toContain("00:00");
    expect(days).not.toContain("");
    expect(new Set(ticks).size).toBe(ticks.length);
  });
  test("ticks of values have their unit", () =>
    expect(formatValueTicks([0, 1_500_000], "bytes/s")).toEqual(["0 B/s", "1.5 MB/s"]));
  test("values near zero begin at zero, values far above it do not", () => {
    expect(chooseValueRange(2, 40)[0]).toBe(0);
    expect(chooseValueRange(88, 90)[0]).toBeGreaterThan(80);
  });
  test("the range is never empty, also without values", () => {
    expect(chooseValueRange(null, null)).toEqual([0, 1]);
    const [low, high] = chooseValueRange(7, 7);
    expect(low).toBeLessThan(7);
    expect(high).toBeGreaterThan(7);
    expect(chooseValueRange(0, 0)[1]).toBeGreaterThan(0);
  });
  test("a near threshold is in the range, a far one is not", () => {
    const threshold = (value: number) => ({ value, label: "", side: "above" as const, color: "--critical" as const });
    expect(chooseValueRange(40, 70, [threshold(90)])[1]).toBeGreaterThan(90);
    expect(chooseValueRange(0, 2, [threshold(90)])[1]).toBeLessThan(5);
    expect(isFarThreshold(90, 0, 2)).toBe(true);
  });
});

describe("what is shown", () => {
  const spec: ChartSpec = {
    unit: "percent",
    times: [0, 300, 600],
    series: [
      { label: "Measured", values: [1, null, 3], color: "--chart-history" },
      { label: "low", values: [0, 1, null], color: "--chart-inner", kind: "edge" },
      { label: "high", values: [4, 5, null], color: "--chart-inner", kind: "edge" },
    ],
    bands: [{ label: "2–98 %", lower: 1, upper: 2, color: "--chart-inner" }],
  };
  test("lines have their value with its unit, bands both ends, and nothing is a dash", () => {
    const [line, band, ...others] = listEntries(spec);
    expect(others).toEqual([]);
    expect([line?.read(0), line?.read(1)]).toEqual(["1 %", "–"]);
    expect([band?.read(1), band?.read(2)]).toEqual(["1 to 5 %", "–"]);
  });
  test("a unit that both ends have is written once, different ones twice", () => {
    expect(joinRange("1.2 MB/s", "9 MB/s")).toBe("1.2 to 9 MB/s");
    expect(joinRange("900 kB/s", "1 MB/s")).toBe("900 kB/s to 1 MB/s");
    expect(joinRange("1", "2")).toBe("1 to 2");
  });
  test("other numbers do not make another shape, another series does", () => {
    expect(shapeOf({ ...spec, times: [0] })).toBe(shapeOf(spec));
    expect(shapeOf({ ...spec, series: spec.series.slice(1) })).not.toBe(shapeOf(spec));
  });
  test("a value between two gaps gets a point of its own", () =>
    expect(lonelyPlaces([1, null, 3, null, 5, 6])).toEqual([0, 2]));
  test.each([
    [-5, 0],
    [140, 0],
    [160, 1],
    [9999, 2],
  ])("the point nearest to %d is found", (time, place) => expect(nearestIndex(spec.times, time)).toBe(place));
});
