/** The state of the connection in words. Pure. */
import { formatDuration } from "../format/times";
import type { Reach } from "../wire/reach";
import type { Connection } from "../wire/live";
import type { Tone } from "../ui/basics";

export interface ConnectionFacts {
  connection: Connection;
  reach: Reach;
  /** When the next attempt begins, and the present, in milliseconds. */
  retryAt: number | null;
  nowMs: number;
  refusal: string | null;
  isTokenWanted: boolean;
}

export interface ConnectionWords {
  words: string;
  tone: Tone;
  /** What a pointer that rests on it says. */
  detail: string;
}

/** Describe the connection for the line at the top. */
export function describeConnection(facts: ConnectionFacts): ConnectionWords {
  const { connection, reach, refusal } = facts;
  if (facts.isTokenWanted) {
    return { words: "token needed", tone: "warning", detail: "The daemon answers nothing without a token." };
  }
  if (connection === "refused") {
    return { words: "not live", tone: "warning", detail: `The daemon sends no live data: ${refusal ?? "refused"}` };
  }
  if (!reach.isReachable || connection === "lost") {
    return { words: describeRetry(facts), tone: reach.isReachable ? "warning" : "critical", detail: LOST };
  }
  if (connection === "connected") {
    return { words: "live", tone: "good", detail: "Connected: what changes is shown at once." };
  }
  const hasAnswer = connection === "idle" && reach.lastAnswer !== null;
  return hasAnswer
    ? { words: "connected", tone: "good", detail: "The daemon answers; this view reads it every few seconds." }
    : { words: "connecting", tone: "muted", detail: "The page connects to the daemon." };
}

const LOST = "The page connects again by itself, and then goes on.";

function describeRetry({ retryAt, nowMs }: ConnectionFacts): string {
  if (retryAt === null) return "reconnecting";
  return `reconnecting in ${formatDuration(Math.max(0, Math.ceil((retryAt - nowMs) / 1000)))}`;
}

/** What a screen reader says about a change; empty for what needs no words. */
export function announceConnection(words: ConnectionWords): string {
  if (words.tone === "good") return "Connected to the daemon.";
  if (words.words.startsWith("reconnecting")) return "Connection to the daemon lost. The page connects again by itself.";
  return words.tone === "muted" ? "" : words.detail;
}
