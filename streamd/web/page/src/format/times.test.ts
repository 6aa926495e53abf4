// The zone of these tests is Europe/Berlin; see vite.config.ts.
import { describe, expect, it } from "vitest";
import { formatAge, formatDay, formatDuration, formatFullTime, formatOffset, formatTime, zoneName } from "./times";

const NOON = Date.UTC(2026, 10, 25, 11) / 1000; // Wednesday, 12:00 in Berlin
const HOUR = 3600;

describe("formatTime", () => {
  it.each([
    [NOON, "12:00"],
    [NOON + 13 * HOUR, "Thu 01:00"],
    [NOON - 2 * 24 * HOUR, "Mon 12:00"],
    [NOON - 7 * 24 * HOUR, "18 Nov 12:00"],
    [NOON + 60 * 24 * HOUR, "24 Jan 2027 12:00"],
  ])("writes %s as %s", (at, expected) => expect(formatTime(at, NOON)).toBe(expected));

  it("follows the change to summer time", () => {
    const before = Date.UTC(2026, 2, 29, 0, 30) / 1000;
    expect([formatTime(before, before), formatTime(before + HOUR, before)]).toEqual(["01:30", "03:30"]);
  });
});

it("says the day in words where it is near", () => {
  expect([formatDay(NOON, NOON), formatDay(NOON + 24 * HOUR, NOON)]).toEqual(["today", "Thu"]);
});

it("writes a whole time with its offset", () => {
  expect(formatFullTime(NOON)).toMatch(/^Wednesday,? 25 November 2026, 12:00:00 UTC\+1$/); // browsers differ in a comma
});

describe("formatDuration", () => {
  it.each([
    [0, "0 s"],
    [59.4, "59 s"],
    [59.6, "1 min"],
    [3599, "1 h"],
    [3 * HOUR + 600, "3 h 10 min"],
    [24 * HOUR - 29, "1 d"],
    [52 * HOUR, "2 d 4 h"],
    [48 * HOUR - 60, "2 d"],
    [-5, "0 s"],
  ])("writes %s seconds as %s", (seconds, expected) => expect(formatDuration(seconds)).toBe(expected));
});

describe("formatAge", () => {
  it.each([
    [NOON - 720, "12 min ago"],
    [NOON + 3 * HOUR, "in 3 h"],
    [NOON - 0.5, "now"],
  ])("writes %s as %s", (at, expected) => expect(formatAge(at, NOON)).toBe(expected));
});

describe("the zone", () => {
  it("is that of the reader", () => expect(zoneName(new Date(NOON * 1000))).toBe("Europe/Berlin (UTC+1)"));
  it("has the offset of the day", () => expect(zoneName(new Date(Date.UTC(2026, 6, 1)))).toBe("Europe/Berlin (UTC+2)"));
  it.each([
    [0, "UTC"],
    [330, "UTC+5:30"],
    [-210, "UTC−3:30"],
    [-600, "UTC−10"],
  ])("writes %s minutes as %s", (minutes, expected) => expect(formatOffset(minutes)).toBe(expected));
});
