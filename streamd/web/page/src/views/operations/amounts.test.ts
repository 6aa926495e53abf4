import { describe, expect, it } from "vitest";
import { describeSize, formatDelay, formatPart, formatRate } from "./amounts";

describe("amounts", () => {
  it.each([
    [null, "–"],
    [0, "0/s"],
    [1234.4, "1,234/s"],
    [2.44, "2.4/s"],
    [0.2, "12/min"],
    [0.04, "2.4/min"],
  ])("the rate %s is %s", (rate, text) => expect(formatRate(rate)).toBe(text));

  it.each([
    [undefined, "–"],
    [0, "0 ms"],
    [0.00001, "<0.1 ms"],
    [0.0044, "4.4 ms"],
    [0.0444, "44 ms"],
    [1.44, "1.4 s"],
    [120, "2 min"],
  ])("the delay %s is %s", (delay, text) => expect(formatDelay(delay)).toBe(text));

  it.each([
    [null, "–"],
    [0, "0 %"],
    [0.0004, "<0.1 %"],
    [0.004, "0.4 %"],
    [0.834, "83 %"],
  ])("the share %s is %s", (share, text) => expect(formatPart(share)).toBe(text));

  it.each([
    ["1", "1"],
    ["2", "2"],
    ["4", "3 to 4"],
    ["512", "257 to 512"],
    ["+Inf", "above 512"],
  ])("the bound %s stands for %s", (bound, text) => expect(describeSize(bound)).toBe(text));
});
