import { beforeEach, expect, it } from "vitest";
import { noteDaemonTime, now, skew } from "./clock";

const HERE = 1_764_000_000;

beforeEach(() => noteDaemonTime(HERE, HERE));

it("keeps the clock of this device while the difference is small", () => {
  noteDaemonTime(HERE + 4, HERE);
  expect(skew.value).toBe(0);
});

it("follows the clock of the daemon where this device's is wrong", () => {
  const before = now.value;
  noteDaemonTime(HERE + 180, HERE);
  expect(skew.value).toBe(180);
  expect(now.value - before).toBeGreaterThan(170);
});

it("does not follow whole seconds up and down", () => {
  noteDaemonTime(HERE - 600, HERE);
  noteDaemonTime(HERE - 599, HERE);
  expect(skew.value).toBe(-600);
});

it("comes back when the clock of this device was set right", () => {
  noteDaemonTime(HERE + 180, HERE);
  noteDaemonTime(HERE, HERE);
  expect(skew.value).toBe(0);
});

it("ignores an answer without a time", () => {
  noteDaemonTime(HERE + 180, HERE);
  noteDaemonTime(Number.NaN, HERE);
  expect(skew.value).toBe(180);
});
