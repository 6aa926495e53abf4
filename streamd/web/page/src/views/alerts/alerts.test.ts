import { describe, expect, it } from "vitest";
import type { Alert, AlertRule } from "../../wire/types";
import { AlertBook, keyOf, mergeHistory } from "./book";
import { countStandings, hasFilters, isChosen, readFilters, standingOf, writeFilters } from "./filters";
import { matchesGlob, matchesSearch, splitNames } from "./names";
import { rankAlerts } from "./order";
import { choosesAlert, countChosen } from "./reach";
import { exampleRule } from "./rules";
import { findEnd, findEndProblem, nextMorning, toLocalInput } from "./spans";
import { describeChoice, describeDamping, describeLikely, describeQuantile, describeRange, describeReason, describeRule, findLink } from "./words";
import { findProblem, makeBody, startForm } from "./silenceForm";

const NOW = 1_763_709_000;
const HOUR = 3_600;

function makeAlert(changes: Partial<Alert> = {}): Alert {
  return {
    rule: "disk_fills",
    server: "db-07",
    state: "firing",
    severity: "warning",
    labels: {},
    annotations: {},
    target: "disk_usage",
    unit: "percent",
    quantile: 0.5,
    above: 90,
    within_seconds: 4 * HOUR,
    starts_at: NOW - 60,
    ends_at: null,
    reason: "",
    origin: NOW,
    model: "patch",
    crosses_at: { earliest: NOW + 2 * HOUR, likely: NOW + 3 * HOUR, latest: null },
    seconds_until: { earliest: 2 * HOUR, likely: 3 * HOUR, latest: null },
    updated_at: NOW,
    silenced_until: null,
    ...changes,
  };
}

const crossing = (likely: number | null, earliest: number | null = null, latest: number | null = null) => ({ earliest, likely, latest });

describe("the book of alerts", () => {
  const frame = (alerts: Alert[], snapshot = false, more = false) => ({ type: "alerts", snapshot, more, alerts }) as const;

  it("shows a snapshot when it is whole, in place of what was active", () => {
    const book = new AlertBook();
    book.apply(frame([makeAlert({ server: "a" })], true, true));
    expect(book.active).toBeUndefined();
    book.apply(frame([makeAlert({ server: "b" })], true));
    expect([...(book.active?.values() ?? [])].map(({ server }) => server)).toEqual(["a", "b"]);
    book.apply(frame([], true));
    expect(book.active?.size).toBe(0);
  });

  it("drops the part of a snapshot whose connection was lost", () => {
    const book = new AlertBook();
    book.apply(frame([makeAlert({ server: "gone" })], true, true));
    book.startAnew();
    book.apply(frame([makeAlert({ server: "b" })], true));
    expect([...(book.active?.values() ?? [])].map(({ server }) => server)).toEqual(["b"]);
  });

  it("replaces an alert by its newer state, and moves one that ends to the history", () => {
    const book = new AlertBook();
    book.apply(frame([makeAlert()], true));
    book.apply(frame([makeAlert({ updated_at: NOW + 1 })]));
    expect(book.active?.get(keyOf(makeAlert()))?.updated_at).toBe(NOW + 1);
    const ended = makeAlert({ state: "resolved", ends_at: NOW + 2 });
    book.apply(frame([ended, makeAlert({ server: "x", state: "resolved", starts_at: null, ends_at: NOW })]));
    expect(book.active?.size).toBe(0);
    expect(book.ended, "one that never fired is none of the history").toEqual([ended]);
  });

  it("joins the history that the daemon remembers with what ended since", () => {
    const old = makeAlert({ state: "resolved", ends_at: NOW - 50 });
    const again = makeAlert({ state: "resolved", starts_at: NOW - 20, ends_at: NOW - 10 });
    expect(mergeHistory([old], [again, old])).toEqual([again, old]);
  });
});

describe("the order", () => {
  it("has what needs a person first", () => {
    const alerts = [
      makeAlert({ server: "pending", state: "pending", severity: "critical" }),
      makeAlert({ server: "silenced", severity: "critical", silenced_until: NOW + 5 }),
      makeAlert({ server: "info", severity: "info", crosses_at: crossing(NOW) }),
      makeAlert({ server: "never", crosses_at: crossing(null, NOW + 5) }),
      makeAlert({ server: "later", crosses_at: crossing(NOW + 9) }),
      makeAlert({ server: "sooner", crosses_at: crossing(NOW + 8) }),
      makeAlert({ server: "critical", severity: "critical" }),
    ];
    const order = rankAlerts(alerts, NOW).map(({ server }) => server);
    expect(order).toEqual(["critical", "sooner", "later", "never", "info", "silenced", "pending"]);
  });

  it("is by name where all else is the same", () => {
    const alerts = [makeAlert({ server: "b" }), makeAlert({ server: "a", rule: "z" }), makeAlert({ server: "a" })];
    expect(rankAlerts(alerts, NOW).map(keyOf)).toEqual(["disk_fills a", "z a", "disk_fills b"]);
  });
});

describe("filters", () => {
  it("are read from the address, and what it does not know is left out", () => {
    expect(readFilters({})).toEqual({ part: "active", server: "", rule: "", severity: "", standing: "" });
    const query = { show: "rules", server: "db", rule: "r", severity: "info", state: "silenced" };
    expect(readFilters(query)).toEqual({ part: "rules", server: "db", rule: "r", severity: "info", standing: "silenced" });
    expect(readFilters({ show: "x", severity: "x", state: "x" })).toEqual(readFilters({}));
    expect(writeFilters(readFilters(query))).toEqual(query);
    expect(writeFilters({ part: "active" })).toEqual({ show: "" });
  });

  it("choose alerts", () => {
    const choose = (query: Record<string, string>, changes: Partial<Alert> = {}) =>
      isChosen(makeAlert(changes), readFilters(query), NOW);
    expect(choose({})).toBe(true);
    expect(choose({ server: "DB-" })).toBe(true);
    expect(choose({ server: "web" })).toBe(false);
    expect(choose({ rule: "other" })).toBe(false);
    expect(choose({ severity: "critical" })).toBe(false);
    expect(choose({ state: "pending" })).toBe(false);
    expect(choose({ state: "silenced" }, { silenced_until: NOW + 1 })).toBe(true);
    expect(choose({ state: "pending" }, { state: "resolved" }), "of the past none has a state").toBe(true);
    expect(hasFilters(readFilters({ show: "rules" }))).toBe(false);
    expect(hasFilters(readFilters({ rule: "r" }))).toBe(true);
  });

  it("count how alerts stand, and a silence that is over counts no more", () => {
    const alerts = [makeAlert(), makeAlert({ state: "pending" }), makeAlert({ silenced_until: NOW + 1 })];
    expect(countStandings(alerts, NOW)).toEqual({ firing: 1, pending: 1, silenced: 1 });
    expect(standingOf(makeAlert({ silenced_until: NOW }), NOW)).toBe("firing");
  });
});

describe("names", () => {
  it.each([
    ["db-07", "B-0", true],
    ["db-07", "DB-*", true],
    ["db-07", "b-*", false],
    ["db-07", "db-0[5-8]", true],
    ["db-07", "db-[!0]?", false],
    ["db[1]", "db[1]", true],
    ["a.b", "a?b", true],
    ["axb", "a.b*", false],
  ])("%s is found by %s: %s", (name, search, isFound) => {
    expect(matchesSearch(name, search)).toBe(isFound);
  });

  it("are matched by globs as the daemon does it", () => {
    expect(matchesGlob("db-07", "db-*")).toBe(true);
    expect(matchesGlob("DB-07", "db-*")).toBe(false);
    expect(matchesGlob("db-07", "db")).toBe(false);
    expect(matchesGlob("x]", "x[]]")).toBe(true);
    expect(matchesGlob("xb", "x[z-a]"), "a range that runs backwards matches nothing").toBe(false);
    expect(matchesGlob("x[b", "x[b"), "a bracket that nothing closes is a character").toBe(true);
  });

  it("are matched in little time, whatever is typed", () => {
    expect(matchesSearch("a".repeat(256), `${"*a".repeat(60)}b`)).toBe(false);
  });

  it("are split at commas, spaces and lines", () => {
    expect(splitNames(" db-*, web-01\nweb-01 ")).toEqual(["db-*", "web-01"]);
  });
});

describe("silences", () => {
  it("choose alerts by server and rule", () => {
    expect(choosesAlert({ servers: ["web-*", "db-*"], rules: null }, makeAlert())).toBe(true);
    expect(choosesAlert({ servers: ["db-*"], rules: ["other"] }, makeAlert())).toBe(false);
    expect(choosesAlert({ servers: ["web-*"], rules: ["disk_fills"] }, makeAlert())).toBe(false);
    const alerts = [makeAlert(), makeAlert({ silenced_until: NOW + 1 }), makeAlert({ state: "pending" })];
    expect(countChosen(alerts, { servers: ["*"], rules: null }, NOW)).toEqual({ firing: 2, unsilenced: 1, pending: 1 });
  });

  it("last for a span, or until a time in the reader's zone", () => {
    expect(findEnd("1h", "", NOW)).toBe(NOW + HOUR);
    expect(findEnd("2h", "", NOW)).toBe(NOW + 2 * HOUR);
    expect(findEnd("4h", "", NOW)).toBe(NOW + 4 * HOUR);
    expect(findEnd("custom", "", NOW)).toBeNull();
    // 21 November 2025, 08:10 in Berlin
    expect(toLocalInput(NOW)).toBe("2025-11-21T08:10");
    expect(findEnd("custom", "2025-11-21T09:10", NOW)).toBe(NOW + HOUR);
    expect(toLocalInput(nextMorning(NOW))).toBe("2025-11-22T08:00");
  });

  it("end ahead, and within 30 days", () => {
    expect(findEndProblem(NOW + 1, NOW)).toBeNull();
    expect(findEndProblem(null, NOW)).toContain("Give the time");
    expect(findEndProblem(NOW, NOW)).toContain("over");
    expect(findEndProblem(NOW + 31 * 86_400, NOW)).toContain("30 days");
  });
});

describe("words", () => {
  const rule: AlertRule = {
    ...makeAlert(),
    rule: "disk_fills",
    within_seconds: 4 * HOUR,
    for: 2,
    hysteresis: 1.8,
    min_rows: 144,
    servers: ["*"],
  };

  it("say what a rule means", () => {
    expect(describeRule(rule)).toBe("disk_usage reaches 90 % within 4 h");
    const { above: _, ...idle } = { ...rule, below: 5 };
    expect(describeRule(idle)).toBe("disk_usage falls to 5 % within 4 h");
    expect(describeDamping(rule)).toBe("Fires after 2 forecasts in a row; ends after as many that stay 1.8 % clear of it.");
    expect(describeDamping({ ...rule, for: 1 })).toContain("Fires at once; ends with the first forecast that stays 1.8 %");
    expect(describeQuantile(rule)).toBe("by the median forecast");
    expect(describeQuantile({ quantile: 0.9, above: 90 })).toBe("with a chance of 10 % or more");
    expect(describeQuantile({ quantile: 0.1 })).toBe("with a chance of 10 % or more");
  });

  it("say when a threshold is reached", () => {
    const [soon, late] = [NOW + 2 * HOUR, NOW + 5 * HOUR];
    expect(describeLikely(crossing(soon), NOW)).toBe("in 2 h");
    expect(describeLikely(crossing(NOW - 5), NOW)).toBe("now");
    expect(describeLikely(crossing(null), NOW)).toBe("not likely");
    expect(describeRange(crossing(soon, soon, late), NOW)).toBe("2 h to 5 h");
    expect(describeRange(crossing(late, soon), NOW)).toBe("earliest 2 h, perhaps not at all");
    expect(describeRange(crossing(late, NOW), NOW)).toBe("at any time, or not at all");
    expect(describeRange(crossing(late, late - 9, late + 9), NOW)).toBe("quite sure");
    expect(describeRange(crossing(NOW, NOW, soon), NOW)).toBe("latest in 2 h");
    expect(describeRange(crossing(NOW, NOW), NOW)).toBe("");
    expect(describeRange(crossing(null), NOW)).toBe("");
  });

  it("say why an alert ended, and what a silence chooses", () => {
    expect(describeReason(makeAlert({ reason: "silent" }))).toBe("no new forecast came");
    expect(describeReason(makeAlert({ reason: "unknown" }))).toBe("no value of it came for a whole window");
    expect(describeReason(makeAlert({ reason: "new_reason" }))).toBe("new_reason");
    expect(describeChoice({ servers: ["db-*", "x"], rules: ["a", "b"] })).toBe("a, b on db-*, x");
    expect(describeChoice({ servers: ["*"], rules: null })).toBe("all rules on all servers");
  });

  it("follow only links of the web", () => {
    expect(findLink("https://wiki/disk")).toBe("https://wiki/disk");
    expect(findLink("javascript:alert(1)")).toBeNull();
    expect(findLink("see the wiki")).toBeNull();
  });

  it("give an example about a target that the model has", () => {
    expect(exampleRule(["cpu_user", "mem_used"], {})).toContain('[alerts.rules.mem_used_high]\ntarget = "mem_used"\nabove = 90.0');
    expect(exampleRule(["net_in"], { net_in: "bytes/s" })).toContain("above = 100.0");
  });
});

describe("the form of a silence", () => {
  const form = { ...startForm("web[1], a", ""), why: " repair " };
  it("of one server chooses that server alone, whatever its name has", () =>
    expect(makeBody(form, 100)).toEqual({ servers: ["web[[]1], a"], rules: null, seconds: 3_600, why: "repair" }));
  it("until tomorrow sends the end, and who it is", () => {
    const body = makeBody({ ...form, server: null, servers: "db-*, web-1", rule: "full", span: "tomorrow", who: "ops" }, 100);
    expect(body).toEqual({ servers: ["db-*", "web-1"], rules: ["full"], until: 111_600, why: "repair", who: "ops" });
  });
  it("needs servers, a reason, and an end that lies ahead", () => {
    expect(findProblem(form, 100)).toBeNull();
    expect(findProblem({ ...form, server: null, servers: " " }, 100)).toMatch(/^Name at least one server/);
    expect(findProblem({ ...form, why: " " }, 100)).toBe("Give a reason.");
    expect(findProblem({ ...form, span: "custom", custom: "1970-01-01T01:00" }, 100)).toMatch(/^That time is over/);
  });
});
