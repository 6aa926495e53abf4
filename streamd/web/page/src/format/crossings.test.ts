import { describe, expect, it } from "vitest";
import { describeReach, describeThreshold, describeWhen, describeWhenAndTime, formatUntil, isNow } from "./crossings";

describe("a threshold", () => {
  it("is named with its target and unit", () => {
    expect(describeThreshold({ target: "disk_usage", unit: "percent", above: 90 })).toBe("disk_usage reaches 90 %");
    expect(describeThreshold({ target: "cpu_idle", unit: "percent", below: 5 })).toBe("cpu_idle falls to 5 %");
  });
  it("may lie at zero", () => expect(describeReach({ unit: "bytes/s", above: 0 })).toBe("reaches 0 B/s"));
});

describe("the time until a crossing", () => {
  it.each([
    [-3600, "now"],
    [29, "now"],
    [30, "1 min"],
    [11_400, "3 h 10 min"],
  ])("%d s ahead is %s", (at, words) => expect(formatUntil(at, 0)).toBe(words));
  it("says now alone, and else in", () => {
    expect(isNow(10, 0)).toBe(true);
    expect([describeWhen(10, 0), describeWhenAndTime(10, 0)]).toEqual(["now", "now"]);
    expect(describeWhen(11_400, 0)).toBe("in 3 h 10 min");
    expect(describeWhenAndTime(11_400, 0)).toBe("in 3 h 10 min (04:10)"); // 1970 in Berlin: UTC+1
  });
});
