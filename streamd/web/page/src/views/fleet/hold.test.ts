import { expect, it } from "vitest";
import { Hold, HOLD_MS } from "./hold";

it("holds while the pointer moves over the list, and some time after", () => {
  const hold = new Hold();
  expect(hold.isHeld(0)).toBe(false);
  hold.point(1000);
  expect(hold.isHeld(1000 + HOLD_MS - 1)).toBe(true);
  expect(hold.isHeld(1000 + HOLD_MS)).toBe(false);
});

it("ends when the pointer leaves", () => {
  const hold = new Hold();
  hold.point(1000);
  hold.leave();
  expect(hold.isHeld(1001)).toBe(false);
});

it("holds for keys until the list loses the focus", () => {
  const hold = new Hold();
  hold.press(1000);
  expect(hold.isHeld(1001)).toBe(true);
  hold.blur();
  expect(hold.isHeld(1002)).toBe(false);
});
