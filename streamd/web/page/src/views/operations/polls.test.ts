import { describe, expect, it } from "vitest";
import { parseExposition } from "../../wire/exposition";
import type { Status } from "../../wire/status";
import { addPoll, Change, changeOver, estimateQuantile, KEPT_SECONDS, type Poll, rateSeries } from "./polls";

function poll(at: number, uptime: number, delivered = 0, metrics = ""): Poll {
  const status = { uptime_seconds: uptime, rows: { delivered } } as unknown as Status;
  return { at, status, metrics: parseExposition(metrics) };
}

const delivered = (each: Poll) => each.status.rows["delivered"] ?? 0;

describe("addPoll", () => {
  it("keeps polls for some minutes", () => {
    const polls = addPoll(addPoll([poll(0, 10)], poll(KEPT_SECONDS, 310)), poll(KEPT_SECONDS + 2, 312));
    expect(polls.map((each) => each.at)).toEqual([KEPT_SECONDS, KEPT_SECONDS + 2]);
  });

  it("forgets what was before a restart, so that no rate is negative", () => {
    expect(addPoll([poll(0, 500, 90)], poll(2, 1, 3)).map((each) => each.at)).toEqual([2]);
  });

  it("ignores a poll that is not newer", () => {
    expect(addPoll([poll(2, 10)], poll(2, 10))).toHaveLength(1);
  });
});

describe("Change", () => {
  const polls = [poll(0, 10, 100), poll(10, 20, 200), poll(20, 30, 500)];

  it("reaches back as far as it is asked to, or as is known", () => {
    expect(changeOver(polls, 10)?.rate(delivered)).toBe(30);
    expect(changeOver(polls, 60)?.rate(delivered)).toBe(20);
    expect(changeOver(polls.slice(0, 1), 60)?.rate(delivered)).toBeNull();
    expect(changeOver([], 60)).toBeUndefined();
  });

  it("estimates quantiles of what happened in between", () => {
    const text = (fast: number, all: number) => `d_bucket{le="0.1"} ${fast}\nd_bucket{le="1.0"} ${all}\nd_bucket{le="+Inf"} ${all}`;
    const change = new Change(poll(0, 1, 0, text(1000, 1000)), poll(2, 3, 0, text(1000, 1010)));
    expect(change.quantiles("d", [0.5, 1])).toEqual([0.1 + 0.9 / 2, 1]);
    expect(new Change(undefined, change.now).quantiles("d", [0.5])).toEqual([expect.closeTo(0.0505)]);
    expect(change.quantiles("unknown", [0.5])).toEqual([null]);
  });
});

describe("estimateQuantile", () => {
  it("answers the highest finite bound for what lies above it", () => {
    expect(estimateQuantile([[1, 0], [Infinity, 4]], 0.5)).toBe(1);
  });

  it("does not know a quantile of nothing", () => {
    expect(estimateQuantile([[1, 0], [Infinity, 0]], 0.5)).toBeNull();
    expect(estimateQuantile([], 0.5)).toBeNull();
  });
});

describe("rateSeries", () => {
  it("smooths over some seconds", () => {
    const polls = [poll(0, 1, 0), poll(2, 3, 20), poll(4, 5, 20), poll(6, 7, 50)];
    expect(rateSeries(polls, delivered, 2)).toEqual([10, 0, 15]);
    expect(rateSeries(polls, delivered, 4)).toEqual([10, 5, 7.5]);
  });
});
