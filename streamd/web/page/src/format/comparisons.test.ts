import { describe, expect, it } from "vitest";
import type { PairedLoss } from "../wire/status";
import { describeComparison, findComparison, judge } from "./comparisons";

const pair = (change: Partial<PairedLoss>): PairedLoss => ({
  forecasts: 100,
  first_loss: 0.1,
  second_loss: 0.09,
  difference: -0.01,
  standard_error: 0.002,
  ...change,
});

describe("judge", () => {
  it.each([
    [{}, "better"],
    [{ difference: 0.01 }, "worse"],
    [{ standard_error: 0.005 }, "unclear"],
    [{ forecasts: 29 }, "early"],
    [{ standard_error: null }, "early"],
  ] as const)("%o is %s", (change, standing) => expect(judge(pair(change))).toBe(standing));
});

describe("describeComparison", () => {
  it("says by how much, how sure that is, and over how many", () => {
    expect(describeComparison(pair({}))).toBe(
      "It is better: its loss is 10 % ± 4 % lower over 100 forecasts that both made of the same servers at the same times.",
    );
  });

  it("does not judge too early", () => {
    expect(describeComparison(pair({ forecasts: 1, standard_error: null, difference: 0.01 }))).toMatch(
      /^Too early: so far its loss is 10 % higher over 1 forecast that/,
    );
    expect(describeComparison(pair({ forecasts: 0, difference: null }))).toMatch(/^No forecast/);
  });
});

describe("findComparison", () => {
  const known = [{ first: "a", second: "b", by_range: [], ...pair({}) }];

  it("turns a comparison that is the other way round", () => {
    expect(findComparison(known, "a", "b")).toMatchObject({ difference: -0.01, first_loss: 0.1 });
    expect(findComparison(known, "b", "a")).toMatchObject({ difference: 0.01, first_loss: 0.09, second_loss: 0.1 });
    expect(findComparison(known, "a", "c")).toBeUndefined();
  });
});
