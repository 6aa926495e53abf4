import { describe, expect, it } from "vitest";
import { describeAge, describeUntil, layRange } from "./crossings";
import { makeCrossing } from "./samples";

const times = (earliest: number | null, likely: number | null, latest: number | null) => ({ earliest, likely, latest });

describe("words", () => {
  it("say the likely time, and the earliest beside it", () => {
    const until = describeUntil(makeCrossing({ crosses_at: times(3600, 11_400, null) }), 0);
    expect(until).toMatchObject({ main: "3 h 10 min", clock: "04:10", note: "earliest 1 h" });
    expect(until.whole).toContain("disk_usage reaches 90 %, likely in 3 h 10 min");
  });

  it("say now for a value that is at its threshold", () => {
    expect(describeUntil(makeCrossing({ crosses_at: times(900, 1000, 1500) }), 1000)).toMatchObject({
      main: "now",
      note: "",
    });
  });

  it("count no seconds", () => {
    expect(describeUntil(makeCrossing({ crosses_at: times(10, 45, null) }), 0)).toMatchObject({
      main: "1 min",
      note: "possible now",
    });
  });

  it("call a crossing that only the upper curve has unlikely", () => {
    expect(describeUntil(makeCrossing({ crosses_at: times(7200, null, null) }), 0)).toMatchObject({
      main: "unlikely",
      note: "earliest 2 h",
    });
  });
});

it("says less than a minute in place of seconds", () => {
  expect(describeAge(-5)).toBe("less than 1 min");
  expect(describeAge(61)).toBe("1 min");
});

describe("the bar", () => {
  it("reaches from the earliest to the latest time, with a mark at the likely one", () => {
    expect(layRange(times(1100, 1500, 1800), 1000, 1000)).toEqual({ from: 0.1, to: 0.8, likely: 0.5, isOpen: false });
  });

  it("is open to the end where no latest time is known", () => {
    expect(layRange(times(1100, null, null), 1000, 1000)).toEqual({ from: 0.1, to: 1, likely: null, isOpen: true });
  });

  it("stays on its axis", () => {
    expect(layRange(times(0, 900, 5000), 1000, 1000)).toEqual({ from: 0, to: 1, likely: 0, isOpen: false });
  });

  it("does not exist without a time", () => {
    expect(layRange(times(null, null, null), 1000, 1000)).toBeNull();
    expect(layRange(times(1, 2, 3), 1000, 0)).toBeNull();
  });
});
