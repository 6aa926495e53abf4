import { describe, expect, it } from "vitest";
import type { AccuracyStatus, VersionAccuracy } from "../../wire/status";
import {
  coverageTolerance,
  describeRange,
  describeVersion,
  judgeCoverage,
  judgeDrift,
  mainInterval,
  meanCoverage,
  nominalShare,
  scoringDelays,
} from "./judgements";

describe("coverage", () => {
  it("knows what an interval should hold", () => {
    expect(nominalShare("0.1-0.9")).toBe(0.8);
    expect(nominalShare("0.02-0.98")).toBe(0.96);
    expect(mainInterval(["0.02-0.98", "0.1-0.9", "0.25-0.75"])).toBe("0.1-0.9");
    expect(mainInterval([])).toBeUndefined();
  });

  it("allows less where less may lie outside", () => {
    expect(coverageTolerance(0.8)).toBeCloseTo(0.05);
    expect(coverageTolerance(0.96)).toBe(0.02);
    expect(coverageTolerance(0.5)).toBe(0.08);
  });

  it.each([
    [0.79, 500, "as it should be"],
    [0.74, 500, "too narrow"],
    [0.86, 500, "too wide"],
    [0.2, 29, "too early to judge"],
    [null, 500, "no value yet"],
  ])("%s over %s forecasts is %s", (share, forecasts, words) => {
    expect(judgeCoverage(share, 0.8, forecasts).words).toBe(words);
  });
});

describe("meanCoverage", () => {
  const target = (values: number, share: number | null) => ({ loss: null, values, inside: { "0.1-0.9": share }, below: {} });
  const scores = (...targets: ReturnType<typeof target>[]) => ({ targets: { ...targets } }) as unknown as VersionAccuracy;

  it("weighs each target by its values", () => {
    expect(meanCoverage(scores(target(300, 0.9), target(100, 0.5), target(0, null)), "0.1-0.9")).toBeCloseTo(0.8);
    expect(meanCoverage(scores(target(0, null)), "0.1-0.9")).toBeNull();
  });
});

const version = (change: Partial<VersionAccuracy>) => ({ forecasts: 100, loss: 0.128, drift_ratio: 1.57, ...change }) as VersionAccuracy;

describe("drift", () => {
  it.each([
    [1.57, "much above training"],
    [1.3, "above training"],
    [1.0, "as in training"],
    [0.5, "below training"],
    [null, "not known yet"],
  ])("a ratio of %s is %s", (drift_ratio, words) => expect(judgeDrift(version({ drift_ratio })).words).toBe(words));

  it("is not judged early", () => expect(judgeDrift(version({ forecasts: 3 })).words).toBe("too early to judge"));
});

const accuracy = { window_steps: 288, score_after_steps: 2 } as AccuracyStatus;

describe("words", () => {
  it("says ranges as times", () => {
    expect(describeRange("1-12", 300)).toBe("to 1 h");
    expect(describeRange("85-96", 300)).toBe("to 8 h");
  });

  it("knows when the first scores come", () => {
    expect(scoringDelays(accuracy, 96, 300)).toEqual({ first: 900, whole: 29_400 });
  });

  it("says what is known", () => {
    expect(describeVersion(version({}), accuracy, 300)).toBe(
      "Its loss is 0.128 over 100 forecasts of the last day: 1.57 times that of its training.",
    );
    expect(describeVersion(version({ loss: null }), accuracy, 300)).toBe("No loss of the whole horizon yet, over 100 forecasts of the last day.");
  });
});
