import { describe, expect, it } from "vitest";
import { pageOf, scrollTo, seenRange } from "./windowing";

describe("the rows in view", () => {
  it("are those between the top and the bottom, with some more", () => {
    expect(seenRange(1000, 400, 40, 20_000, 5)).toEqual({ first: 20, end: 40 });
  });

  it("end at both ends of the list", () => {
    expect(seenRange(0, 400, 40, 20_000, 5)).toEqual({ first: 0, end: 15 });
    expect(seenRange(799_600, 400, 40, 20_000, 5)).toEqual({ first: 19_985, end: 20_000 });
    expect(seenRange(0, 400, 40, 3, 5)).toEqual({ first: 0, end: 3 });
    expect(seenRange(0, 400, 40, 0, 5)).toEqual({ first: 0, end: 0 });
  });

  it("are a valid range while the list is shorter than the place of the scroll", () => {
    const { first, end } = seenRange(100_000, 400, 40, 10, 5);
    expect(first).toBeLessThanOrEqual(end);
    expect(end).toBe(10);
  });
});

describe("the page that the daemon is asked for", () => {
  it("covers each range, and has at most 500 rows", () => {
    for (let first = 0; first < 200; first += 7) {
      const range = { first, end: first + 33 };
      const { offset, limit } = pageOf(range);
      expect(offset).toBeLessThanOrEqual(range.first);
      expect(offset + limit).toBeGreaterThanOrEqual(range.end);
    }
    expect(pageOf({ first: 3, end: 3000 }).limit).toBe(500);
    expect(pageOf({ first: 0, end: 0 })).toEqual({ offset: 0, limit: 10 });
  });

  it("stays the same for small steps", () => {
    expect(pageOf({ first: 11, end: 38 })).toEqual(pageOf({ first: 12, end: 39 }));
  });
});

it("scrolls no further than a row needs", () => {
  expect(scrollTo(5, 100, 400, 40)).toBe(100);
  expect(scrollTo(1, 100, 400, 40)).toBe(40);
  expect(scrollTo(20, 100, 400, 40)).toBe(440);
});
