import { describe, expect, it } from "vitest";
import { formatShare, formatSpan, formatValue, formatWhole, round } from "./values";

describe("formatValue", () => {
  it.each([
    [12.5, "percent", "12.5 %"],
    [100, "percent", "100 %"],
    [0.04, "percent", "0.04 %"],
    [0.001, "percent", "< 0.01 %"],
    [0, "percent", "0 %"],
    [-0.001, "percent", "> -0.01 %"],
    [1_234_567, "bytes/s", "1.23 MB/s"],
    [999, "bytes/s", "999 B/s"],
    [999.6, "bytes/s", "1 kB/s"],
    [-1500, "bytes/s", "-1.5 kB/s"],
    [0.0038, "bytes/s", "0.004 B/s"],
    [0.0004, "bytes/s", "0 B/s"],
    [5e18, "bytes", "5,000 PB"],
    [1204, "count", "1,204"],
    [0.5, "count", "0.5"],
    [2.1, "1", "2.1"],
    [273_600, "s", "3 d 4 h"],
    [0.0032, "s", "3.2 ms"],
    [21.5, "celsius", "21.5 celsius"],
  ])("writes %s %s as %s", (value, unit, expected) => expect(formatValue(value, unit)).toBe(expected));

  it.each([null, undefined, Number.NaN, Number.POSITIVE_INFINITY])("writes %s as missing", (value) =>
    expect(formatValue(value, "percent")).toBe("–"),
  );

  it("never writes a negative zero", () => expect(formatValue(-0.0000001, "bytes/s")).toBe("0 B/s"));
});

describe("round", () => {
  it.each([
    [0.12345, "0.123"],
    [2.504, "2.5"],
    [12.34, "12.3"],
    [1204.4, "1,204"],
    [0.00045, "4.5e-4"],
    [-0.2, "-0.2"],
    [-0, "0"],
  ])("writes %s as %s", (value, expected) => expect(round(value)).toBe(expected));
});

describe("formatSpan", () => {
  it.each([
    [0.000045, "45 µs"],
    [0.0032, "3.2 ms"],
    [1.25, "1.25 s"],
    [0, "0 s"],
    [150, "3 min"],
    [-150, "-3 min"],
    [null, "–"],
  ])("writes %s as %s", (seconds, expected) => expect(formatSpan(seconds)).toBe(expected));
});

it("writes shares in percent", () => expect(formatShare(0.793)).toBe("79.3 %"));
it("writes a missing share as missing", () => expect(formatShare(null)).toBe("–"));
it("writes whole numbers", () => expect([formatWhole(12_480), formatWhole(0.4)]).toEqual(["12,480", "0"]));
