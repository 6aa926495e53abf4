import { describe, expect, it } from "vitest";
import { parseExposition } from "../../wire/exposition";
import type { Status } from "../../wire/status";
import { describeDaemon } from "./headline";
import { Change } from "./polls";
import { findProblems } from "./problems";

const CALM = {
  ready: true,
  draining: false,
  stall: null,
  lanes: [{}, {}, {}],
  lanes_lost: [],
  passed_over: [],
  reload: { state: "serving", version: "a", error: null, when: 0 },
  candidate: null,
  workers_away: [],
  device_restarts: 0,
  servers: 12,
  capacity: 100,
  waiting: 0,
  rows: { delivered: 100, due: 100, superseded: 0, failed: 0 },
  samples: { accepted: 100, rejected: {}, refused_frames: {}, ignored_features: 0 },
  subscribers: { now: 1, waiting: 0, dropped: 0 },
  ahead: { servers: 0, first: [] },
  alerts: { failures: 0, lag_seconds: 0.5, receivers: [] },
  accuracy_history: { problem: null },
  access: { rejected_files: [] },
  state_folder: { problem: null },
  recovered: { unreadable: 0, set_aside: [] },
} as unknown as Status;

function change(now: Partial<Status>, before: Partial<Status> = {}): Change {
  const metrics = parseExposition("");
  const [first, last] = [before, now].map((each) => ({ ...CALM, ...each }) as Status);
  return new Change({ at: 0, status: first as Status, metrics }, { at: 10, status: last as Status, metrics });
}

const titles = (...given: Parameters<typeof change>) => findProblems(change(...given)).map((each) => each.title);

describe("findProblems", () => {
  it("finds nothing where nothing is wrong", () => expect(titles({})).toEqual([]));

  it("puts what stops forecasts first", () => {
    const found = findProblems(change({ workers_away: [2], stall: "no batch ended for 60 s" }));
    expect(found.map((each) => each.tone)).toEqual(["critical", "warning"]);
    expect(found[0]?.detail).toBe("no batch ended for 60 s");
  });

  it.each<[string, Partial<Status>]>([
    ["No lane works, so there are no forecasts", { ready: false }],
    ["The daemon is stopping", { draining: true, ready: false }],
    ["A version that should serve cannot", { passed_over: [{ name: "b", rule: "default", reason: "damaged" }] }],
    ["1 lane lost since this version began to serve", { lanes_lost: ["cpu-0: no answer"] }],
    ["95 of at most 100 servers", { servers: 95 }],
    ["Forecasts fail", { rows: { ...CALM.rows, failed: 1 } }],
    ["Newer rows come before the forecasts of older ones", { rows: { ...CALM.rows, due: 200, superseded: 50 } }],
    ["A subscriber reads too slowly", { subscribers: { now: 1, waiting: 0, dropped: 3 } }],
    ["Samples are rejected", { samples: { ...CALM.samples, rejected: { too_old: 3 } } }],
    ["The last start found damage in the state folder", { recovered: { lost_rows: 3 } }],
  ])("finds: %s", (title, status) => expect(titles(status)).toEqual([title]));

  it("takes a few replaced rows for what they are", () => {
    expect(titles({ rows: { ...CALM.rows, due: 102, superseded: 1 } })).toEqual([]);
  });

  it("does not repeat what is long over", () => {
    const rows = { ...CALM.rows, failed: 7, superseded: 90 };
    expect(titles({ rows }, { rows })).toEqual([]);
  });

  it("waits a minute for a receiver", () => {
    const alerts = (last_success: number) =>
      ({ alerts: { ...CALM.alerts, receivers: [{ receiver: "pager", waiting: 2, last_success }] } }) as Partial<Status>;
    expect(titles(alerts(-20))).toEqual([]);
    expect(titles(alerts(-100))).toEqual(["pager does not take alerts"]);
  });
});

describe("describeDaemon", () => {
  it("says all in one sentence", () => {
    const later = change({ rows: { ...CALM.rows, delivered: 1060 } });
    expect(describeDaemon(later)).toBe("All 3 lanes work; 12 servers; 96 forecasts/s; nothing waits.");
  });

  it("says what waits, and that no lane works", () => {
    const text = describeDaemon(change({ ready: false, waiting: 1, lanes: [] }));
    expect(text).toBe("No lane works; 12 servers; no forecast in this minute; 1 window waits.");
  });
});
