/** Rates, delays, shares and sizes that move all the time: with so few digits that they can be read. Pure. */
import { formatDuration } from "../../format/times";
import { formatWhole } from "../../format/values";

/** A rate: `96/s`, `2.4/s`, and by the minute where less than one comes in a second: `12/min`. */
export function formatRate(perSecond: number | null): string {
  if (perSecond === null) return "–";
  if (perSecond === 0) return "0/s";
  if (perSecond >= 10) return `${formatWhole(perSecond)}/s`;
  if (perSecond >= 1) return `${perSecond.toFixed(1)}/s`;
  const perMinute = perSecond * 60;
  return perMinute >= 10 ? `${formatWhole(perMinute)}/min` : `${perMinute.toFixed(1)}/min`;
}

/** A short time, mostly below a second: `0.4 ms`, `12 ms`, `1.5 s`, `2 min`. */
export function formatDelay(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return "–";
  const ms = seconds * 1000;
  if (ms < 0.05) return ms === 0 ? "0 ms" : "<0.1 ms";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return seconds < 60 ? `${seconds.toFixed(1)} s` : formatDuration(seconds);
}

/** A share in whole percent, and finer where it is small: `83 %`, `0.4 %`. */
export function formatPart(share: number | null): string {
  if (share === null) return "–";
  const percent = share * 100;
  if (percent === 0) return "0 %";
  if (percent < 0.05) return "<0.1 %";
  return percent < 1 ? `${percent.toFixed(1)} %` : `${Math.round(percent)} %`;
}

/** The sizes of batches that an upper bound stands for; bounds double from one to the next: `3 to 4` up to 4. */
export function describeSize(bound: string): string {
  if (bound === "+Inf") return "above 512";
  const upper = Number(bound);
  return upper <= 2 ? bound : `${upper / 2 + 1} to ${upper}`;
}
