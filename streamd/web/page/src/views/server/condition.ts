/** How fresh a server is, in one word and in a sentence. */
import { formatDuration, formatTime } from "../../format/times";
import type { Condition } from "../../wire/types";

/** Rows may be this many steps behind the clock before the server counts as stale. */
const STALE_STEPS = 3;

export interface Freshness {
  condition: Condition;
  /** A sentence for the reader; empty if there is nothing to say. */
  text: string;
}

export interface ServerFacts {
  have: number;
  need: number;
  /** The end of the newest row. */
  origin: number;
  /** The origin of the newest forecast; null without one. */
  forecastOrigin: number | null;
  stepSeconds: number;
}

/** Judge a server at a time. */
export function judgeServer(facts: ServerFacts, now: number): Freshness {
  const { have, need, origin, forecastOrigin, stepSeconds } = facts;
  const isStale = now - origin > STALE_STEPS * stepSeconds;
  const silence = isStale ? `No row since ${formatTime(origin, now)}, ${formatDuration(now - origin)} ago. ` : "";
  if (have < need) return { condition: "warming", text: silence + describeWarming(facts, isStale, now) };
  if (forecastOrigin === null) {
    return { condition: "pending", text: `${silence}It has enough rows; its first forecast is on the way.` };
  }
  if (isStale) return { condition: "stale", text: `${silence}The forecast is as old as that.` };
  return { condition: "current", text: describeAhead(origin, now) };
}

function describeWarming({ have, need, origin, stepSeconds }: ServerFacts, isStale: boolean, now: number): string {
  const counted = `${have} of ${need} rows are there.`;
  if (isStale) return `${counted} It gets a forecast when ${need - have} more have come.`;
  const ready = origin + (need - have) * stepSeconds;
  return (
    `${counted} With one row every ${formatDuration(stepSeconds)} the rest is there at about ` +
    `${formatTime(ready, now)}, and the first forecast with it.`
  );
}

function describeAhead(origin: number, now: number): string {
  const ahead = origin - now;
  return ahead > 60 ? `Its newest row lies ${formatDuration(ahead)} ahead of the clock.` : "";
}
