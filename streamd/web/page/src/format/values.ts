/** Numbers with units, as people say them. */
import { formatDuration } from "./times";

const PREFIXES = ["", "k", "M", "G", "T", "P"];
const NOTHING = "–";
const ROUNDED = new Intl.NumberFormat("en-US", { maximumFractionDigits: 3 });
const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** Format a value in the unit of the contract, such as `12.5 %`, `1.2 MB/s`, `1,204` or `3 d 4 h`. */
export function formatValue(value: number | null | undefined, unit: string): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  switch (unit) {
    case "percent":
      return formatPercent(value);
    case "bytes/s":
      return formatScaled(value, "B/s");
    case "bytes":
      return formatScaled(value, "B");
    case "s":
    case "seconds":
      return formatSpan(value);
    case "count":
    case "1":
    case "":
      return round(value);
    default:
      return `${round(value)} ${unit}`;
  }
}

/** A whole number: `12,480`. */
export function formatWhole(count: number): string {
  return WHOLE.format(count);
}

/** A share from 0 to 1 in percent. */
export function formatShare(share: number | null | undefined): string {
  return formatValue(share === null || share === undefined ? share : share * 100, "percent");
}

/** A short span of time: `45 µs`, `3.2 ms`, `1.25 s`, `2 min`. */
export function formatSpan(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NOTHING;
  const size = Math.abs(seconds);
  const sign = seconds < 0 ? "-" : "";
  if (size >= 60) return `${sign}${formatDuration(size)}`;
  if (size >= 1 || size === 0) return `${round(seconds)} s`;
  return size >= 0.001 ? `${round(seconds * 1e3)} ms` : `${round(seconds * 1e6)} µs`;
}

/** Round to about three digits, but never the digits before the point: `0.123`, `2.5`, `12.3`, `1,204`. */
export function round(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  const rounded = Number(value.toFixed(digits)) || 0; // never -0
  return ROUNDED.format(rounded);
}

function formatPercent(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && size < 0.005) return value < 0 ? "> -0.01 %" : "< 0.01 %";
  return `${size < 1 ? Number(value.toFixed(2)) : round(value)} %`;
}

function formatScaled(value: number, unit: string): string {
  let scaled = value;
  let place = 0;
  while (Math.abs(scaled) >= 999.5 && place < PREFIXES.length - 1) {
    scaled /= 1000;
    place += 1;
  }
  const text = Math.abs(scaled) < 0.001 ? "0" : round(scaled);
  return `${text} ${PREFIXES[place] ?? ""}${unit}`;
}
