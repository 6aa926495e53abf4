import { expect, it } from "vitest";
import { announceConnection, type ConnectionFacts, describeConnection } from "./connection";

const FACTS: ConnectionFacts = {
  connection: "connected",
  reach: { isReachable: true, lastAnswer: 1_764_000_000 },
  retryAt: null,
  nowMs: 1_764_000_000_000,
  refusal: null,
  isTokenWanted: false,
};
const describeWith = (change: Partial<ConnectionFacts>) => describeConnection({ ...FACTS, ...change });
const AWAY = { isReachable: false, lastAnswer: 1_764_000_000 };

it.each<[string, Partial<ConnectionFacts>, string, string]>([
  ["a socket that stands", {}, "live", "good"],
  ["a view that needs no socket", { connection: "idle" }, "connected", "good"],
  ["the first moment", { connection: "idle", reach: { isReachable: true, lastAnswer: null } }, "connecting", "muted"],
  ["a socket that opens", { connection: "connecting" }, "connecting", "muted"],
  ["a lost socket", { connection: "lost", retryAt: FACTS.nowMs + 2_100 }, "reconnecting in 3 s", "warning"],
  ["an attempt in progress", { connection: "lost" }, "reconnecting", "warning"],
  ["a daemon that is away", { connection: "lost", reach: AWAY, retryAt: FACTS.nowMs - 5 }, "reconnecting in 0 s", "critical"],
  ["a daemon that is away, without a socket", { connection: "idle", reach: AWAY }, "reconnecting", "critical"],
  ["a token without the scope", { connection: "refused", refusal: "no scope" }, "not live", "warning"],
  ["no token", { connection: "refused", isTokenWanted: true }, "token needed", "warning"],
])("describes %s", (_, change, words, tone) => {
  expect(describeWith(change)).toMatchObject({ words, tone });
});

it("gives the reason of the daemon for what is refused", () => {
  expect(describeWith({ connection: "refused", refusal: "no scope" }).detail).toContain("no scope");
});

it("announces the same words whatever the countdown says", () => {
  const at = (ms: number) => announceConnection(describeWith({ connection: "lost", retryAt: FACTS.nowMs + ms }));
  expect(at(9_000)).toBe(at(1_000));
  expect(at(1_000)).toContain("lost");
});

it("announces nothing while the page connects", () => {
  expect(announceConnection(describeWith({ connection: "connecting" }))).toBe("");
});
