import { effect } from "@preact/signals";
import { describe, expect, it } from "vitest";
import type { FleetServer } from "../../wire/types";
import { LoadedRows, nameOf } from "./rows";
import { makeFrame, makeServer } from "./samples";

function names(rows: LoadedRows, count: number, first = 0): (string | undefined)[] {
  return Array.from({ length: count }, (_, number) => {
    const row = rows.place(first + number).value;
    return row && nameOf(row);
  });
}

describe("merging", () => {
  it("shows the rows of a frame at their places", () => {
    const rows = new LoadedRows();
    rows.take(makeFrame(["a", "b"], { offset: 10 }), false);
    expect(names(rows, 4, 9)).toEqual([undefined, "a", "b", undefined]);
  });

  it("keeps rows that a later frame only orders anew", () => {
    const rows = new LoadedRows();
    rows.take(makeFrame(["a", "b"]), false);
    expect(rows.take(makeFrame(["b", "a"], { sent: [] }), false)).toBe(false);
    expect(names(rows, 2)).toEqual(["b", "a"]);
  });

  it("draws only the places whose row changed", () => {
    const rows = new LoadedRows();
    rows.take(makeFrame(["a", "b"]), false);
    const drawn: string[] = [];
    for (const index of [0, 1])
      effect(() => {
        const row = rows.place(index).value as FleetServer | undefined;
        drawn.push(`${index}:${row?.alerts.length}`);
      });
    drawn.length = 0;
    const alert = { rule: "r", state: "firing", severity: "info", starts_at: 1, silenced_until: null } as const;
    rows.take({ ...makeFrame(["a", "b"]), servers: [makeServer("b", { alerts: [alert] })] }, false);
    expect(drawn).toEqual(["1:1"]);
  });

  it("says when it lacks a row of the order", () => {
    expect(new LoadedRows().take(makeFrame(["a", "b"], { sent: ["a"] }), false)).toBe(true);
  });

  it("removes what is beyond the end of a list that became shorter", () => {
    const rows = new LoadedRows();
    rows.take(makeFrame(["a", "b", "c"], { matching: 3 }), false);
    rows.take(makeFrame(["a"], { matching: 1, sent: [] }), false);
    expect(names(rows, 3)).toEqual(["a", undefined, undefined]);
  });
});

describe("holding the order", () => {
  it("keeps known places, and says that the order is another", () => {
    const rows = new LoadedRows();
    rows.take(makeFrame(["a", "b"]), false);
    rows.take(makeFrame(["b", "a"], { sent: [] }), true);
    expect(names(rows, 2)).toEqual(["a", "b"]);
    expect(rows.hasOtherOrder.value).toBe(true);
    rows.apply();
    expect(names(rows, 2)).toEqual(["b", "a"]);
    expect(rows.hasOtherOrder.value).toBe(false);
  });

  it("updates rows in their old places", () => {
    const rows = new LoadedRows();
    rows.take(makeFrame(["a", "b"]), false);
    rows.take({ ...makeFrame(["b", "a"]), servers: [makeServer("a", { condition: "stale" })] }, true);
    expect(rows.place(0).value).toMatchObject({ server: "a", condition: "stale" });
  });

  it("fills places that were not loaded", () => {
    const rows = new LoadedRows();
    rows.take(makeFrame(["a"]), false);
    rows.take(makeFrame(["c", "d"], { offset: 1 }), true);
    expect(names(rows, 3)).toEqual(["a", "c", "d"]);
    expect(rows.hasOtherOrder.value).toBe(false);
  });

  it("takes the newest order of several that came meanwhile", () => {
    const rows = new LoadedRows();
    rows.take(makeFrame(["a", "b", "c"]), false);
    rows.take(makeFrame(["b", "a", "c"], { sent: [] }), true);
    rows.take(makeFrame(["c", "b", "a"], { sent: [] }), true);
    rows.apply();
    expect(names(rows, 3)).toEqual(["c", "b", "a"]);
  });

  it("says no more that the order is another once it is the former one again", () => {
    const rows = new LoadedRows();
    rows.take(makeFrame(["a", "b"]), false);
    rows.take(makeFrame(["b", "a"], { sent: [] }), true);
    rows.take(makeFrame(["a", "b"], { sent: [] }), true);
    expect(rows.hasOtherOrder.value).toBe(false);
  });
});

describe("memory", () => {
  it("is bounded while the reader scrolls through 20,000 servers", () => {
    const rows = new LoadedRows();
    let most = 0;
    for (let offset = 0; offset < 20_000; offset += 50) {
      const order = Array.from({ length: 50 }, (_, number) => `s${offset + number}`);
      rows.keepNear({ first: offset, end: offset + 50 });
      rows.take(makeFrame(order, { offset, matching: 20_000 }), false);
      most = Math.max(most, rows.size);
    }
    expect(most).toBeLessThan(1000);
    expect(names(rows, 1, 0)).toEqual([undefined]);
    expect(names(rows, 1, 19_999)).toEqual(["s19999"]);
  });

  it("keeps the rows in view whatever was forgotten", () => {
    const rows = new LoadedRows();
    rows.take(makeFrame(["a", "b"]), false);
    rows.keepNear({ first: 0, end: 2 });
    expect(names(rows, 2)).toEqual(["a", "b"]);
  });
});
