import { describe, expect, it } from "vitest";
import { askFor, countChoices, isNarrowed, readState, toggleFilter, writeState } from "./state";

describe("the state in the address", () => {
  it("is read back as it was written", () => {
    const state = readState({ search: "web-*", prefix: "web-", target: "net_in", rule: "a", condition: "stale,firing", sort: "age", group: "true" });
    expect(readState(writeState(state))).toEqual(state);
  });

  it("has defaults that leave the address empty", () => {
    const state = readState({});
    expect(Object.values(writeState(state)).filter((value) => value !== "")).toEqual([]);
    expect(isNarrowed(state)).toBe(false);
  });

  it("passes over what it does not know", () => {
    expect(readState({ condition: "stale,broken", sort: "luck", group: "1" })).toMatchObject({
      filters: ["stale"],
      sort: "worst",
      isGrouped: false,
    });
  });

  it("asks the daemon only for what is chosen", () => {
    expect(askFor(readState({}))).toEqual({ sort: "worst" });
    expect(askFor(readState({ condition: "firing", search: "db", prefix: "db-", group: "true" }))).toEqual({
      search: "db",
      prefix: "db-",
      condition: ["firing"],
      group: true,
      sort: "worst",
    });
  });
});

it("counts the choices that a phone does not show", () => {
  expect(countChoices(readState({ search: "a" }))).toBe(0);
  expect(countChoices(readState({ target: "net_in", sort: "name", group: "true" }))).toBe(3);
});

it("toggles a filter in a fixed order", () => {
  expect(toggleFilter(["stale"], "firing")).toEqual(["firing", "stale"]);
  expect(toggleFilter(["firing", "stale"], "firing")).toEqual(["stale"]);
});
