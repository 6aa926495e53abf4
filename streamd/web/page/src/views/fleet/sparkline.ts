/** The paths of a small picture of one curve. */
import type { Curve } from "./curves";

export interface Spark {
  band: string;
  median: string;
  /** The height of the threshold from the top, null where it lies outside. */
  threshold: number | null;
}

/** A threshold is drawn if the curve comes this near to it, in heights of the curve alone. */
const NEAR = 1.5;

/** Draw a curve into a box of `width` by `height`; the threshold is in it where the curve comes near. */
export function drawSpark(curve: Curve, width: number, height: number, threshold: number | null): Spark | null {
  const values = [...curve.low, ...curve.high, ...curve.median].filter(Number.isFinite);
  if (values.length === 0) return null;
  let least = Math.min(...values);
  let most = Math.max(...values);
  const isNear =
    threshold !== null &&
    Math.max(threshold - most, least - threshold) <= NEAR * Math.max(most - least, Math.abs(threshold) * 0.1);
  if (isNear) {
    least = Math.min(least, threshold);
    most = Math.max(most, threshold);
  }
  // A quiet server shall look quiet: noise is not blown up to the whole height.
  const calm = Math.max(Math.abs(most), Math.abs(least)) * 0.1 || 1;
  const missing = Math.max(0, calm - (most - least)) / 2;
  least -= missing;
  most += missing;
  const x = (step: number, count: number) => (((step + 1) / count) * width).toFixed(1); // the end of each step
  const y = (value: number) => (1 + (1 - (value - least) / (most - least)) * (height - 2)).toFixed(1);
  const line = (points: readonly number[]) => points.map((value, step) => `${x(step, points.length)},${y(value)}`);
  const back = curve.low.map((value, step) => `${x(step, curve.low.length)},${y(value)}`).reverse();
  return {
    band: `M${line(curve.high).join("L")}L${back.join("L")}Z`,
    median: `M${line(curve.median).join("L")}`,
    threshold: isNear ? Number(y(threshold)) : null,
  };
}
