import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { Handlers, Wanted } from "../../wire/readers";
import { makeCrossing, makeFrame, makeServer } from "./samples";

const sent: Wanted[] = [];
let handlers: Handlers = {};
vi.mock("../../wire/live", () => ({
  live: {
    subscribe: (wanted: Wanted, given: Handlers) => {
      sent.push(wanted);
      handlers = given;
      return () => sent.push({ fleet: null });
    },
    update: (change: Wanted) => sent.push(change),
  },
}));
const { FleetFeed } = await import("./feed");
const choice = { quantiles: [0.1, 0.5, 0.9], targetOf: () => "cpu_user" };

beforeEach(() => {
  vi.useFakeTimers();
  sent.length = 0;
});
afterEach(() => {
  vi.useRealTimers();
});

function openFeed(...names: string[]) {
  const feed = new FleetFeed();
  feed.open({ sort: "worst" });
  handlers.onFleet?.(makeFrame(names));
  vi.advanceTimersByTime(1000);
  sent.length = 0;
  return feed;
}

it("asks for the first rows, and then for those in view", () => {
  const feed = new FleetFeed();
  feed.open({ sort: "worst" });
  expect(sent).toEqual([{ fleet: { sort: "worst", offset: 0, limit: 40 } }]);
  feed.show({ first: 95, end: 130 });
  expect(sent.at(-1)).toEqual({ fleet: { sort: "worst", offset: 90, limit: 40 } });
  feed.show({ first: 96, end: 129 });
  vi.advanceTimersByTime(1000);
  expect(sent).toHaveLength(2);
});

it("asks no faster than ten times a second while the reader scrolls, and last of all for where the reader stops", () => {
  const feed = openFeed("a");
  for (let first = 0; first <= 10_000; first += 100) {
    feed.show({ first, end: first + 30 });
    vi.advanceTimersByTime(10);
  }
  vi.advanceTimersByTime(1000);
  expect(sent.length).toBeLessThanOrEqual(12);
  expect(sent.at(-1)).toEqual({ fleet: { sort: "worst", offset: 10_000, limit: 30 } });
});

it("keeps the former rows until the answer to another choice comes", () => {
  const feed = openFeed("a", "b");
  feed.choose({ sort: "name", search: "c" });
  expect(sent).toEqual([{ fleet: { sort: "name", search: "c", offset: 0, limit: 40 } }]);
  expect(feed.rows.place(1).value).toMatchObject({ server: "b" });
  handlers.onFleet?.(makeFrame(["c"], { matching: 1 }));
  expect(feed.rows.place(0).value).toMatchObject({ server: "c" });
  expect(feed.rows.place(1).value).toBeUndefined();
});

it("asks again for rows that neither side has sent", () => {
  openFeed("a");
  handlers.onFleet?.(makeFrame(["a", "b"], { sent: [] }));
  expect(sent).toEqual([{ fleet: { sort: "worst", offset: 0, limit: 40 } }]);
});

it("subscribes to the forecasts of the rows in view, once", () => {
  const feed = openFeed("a", "b");
  feed.chooseCurves(choice);
  const forecasts = {
    servers: ["a", "b"],
    targets: ["cpu_user"],
    quantiles: [0.1, 0.5, 0.9],
    every: 4,
    batch: true,
    interval_seconds: 1,
  };
  expect(sent).toEqual([{ forecasts }]);
  handlers.onFleet?.(makeFrame(["b", "a"], { sent: [] }));
  vi.advanceTimersByTime(1000);
  expect(sent).toHaveLength(1);
  handlers.onFleet?.(makeFrame(["b", "c"]));
  vi.advanceTimersByTime(1000);
  expect(sent.at(-1)?.forecasts).toMatchObject({ servers: ["b", "c"] });
});

it("shows the forecast of that server of a group which crosses first", () => {
  const feed = new FleetFeed();
  feed.open({ sort: "worst", group: true });
  feed.chooseCurves(choice);
  const group = { servers: 2, firing: 0, pending: 0, stale: 0, warming: 0, current: 2 };
  const groups = [
    { ...group, prefix: "a-", crossing: makeCrossing({ server: "a-7" }) },
    { ...group, prefix: "b-", crossing: null },
  ];
  const { servers: _, ...frame } = makeFrame(["a-", "b-"]);
  handlers.onFleet?.({ ...frame, groups });
  vi.advanceTimersByTime(1000);
  expect(sent.at(-1)?.forecasts).toMatchObject({ servers: ["a-7"] });
});

it("holds the order while the reader points at the list, and no longer", () => {
  const feed = openFeed("a", "b");
  feed.hold.point(performance.now());
  handlers.onFleet?.({ ...makeFrame(["b", "a"]), servers: [makeServer("a", { have: 7 })] });
  expect(feed.rows.place(0).value).toMatchObject({ server: "a", have: 7 });
  feed.settleOrder();
  expect(feed.rows.place(0).value).toMatchObject({ server: "a" });
  feed.hold.leave();
  feed.settleOrder();
  expect(feed.rows.place(0).value).toMatchObject({ server: "b" });
});

it("shows why a query was refused, until the next one", () => {
  const feed = openFeed("a");
  handlers.onError?.("target is 'x'");
  expect(feed.refusal.value).toBe("target is 'x'");
  feed.choose({ sort: "name" });
  expect(feed.refusal.value).toBeNull();
});

it("sends nothing more once it is closed", () => {
  const feed = openFeed("a");
  feed.show({ first: 50, end: 80 });
  feed.show({ first: 150, end: 180 });
  feed.close();
  const count = sent.length;
  vi.advanceTimersByTime(5000);
  expect(sent).toHaveLength(count);
});
