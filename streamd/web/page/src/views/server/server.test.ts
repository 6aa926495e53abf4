import { describe, expect, test } from "vitest";
import type { AlertRule, ServerWindow } from "../../wire/types";
import { buildFan, isUnknown } from "../../chart/fan";
import {
  bandShare,
  countHeld,
  curvesOf,
  describeCoverage,
  describeError,
  describeHeld,
  describePast,
  judgeCoverage,
  wholeScores,
  yesterdayOrigin,
  type PastForecast,
  type Score,
  type ServerAccuracy,
} from "./accuracy";
import { buildTargetSpec, type TargetSource } from "./chartSpec";
import { fileName } from "./clipboard";
import { judgeServer, type ServerFacts } from "./condition";
import { describeCrossing, findCrossing, findCrossings, firstCrossing } from "./crossings";
import { writeCsv } from "./csv";
import { findGaps, judgeSending, missingSpans, newestValue, readColumn, trimWindow } from "./history";
import { moveChoice } from "./picker";
import { describeSending } from "./sending";
import { readZoom, writeZoom } from "./zoom";

const STEP = 300;
const ORIGIN = Date.parse("2026-03-10T12:00:00Z") / 1000;

function windowOf(values: (number | null)[], other: (number | null)[] = values): ServerWindow {
  return {
    server: "web-01",
    step_seconds: STEP,
    origin: ORIGIN,
    have: values.length,
    features: ["uptime", "cpu_user", "mem_used"],
    values: values.map((value, row) => [1, value, other[row] ?? null]),
  };
}

const FORECAST = {
  origin: ORIGIN,
  step_seconds: STEP,
  targets: ["cpu_user"],
  quantiles: [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98],
  values: [
    [
      [1, 2, 3, 40, 50, 60, 98],
      [1, 2, 3, 60, 80, 100, 99],
    ],
  ],
};

const RULE: AlertRule = {
  rule: "cpu_full",
  target: "cpu_user",
  unit: "percent",
  above: 90,
  quantile: 0.5,
  within_seconds: 3600,
  for: 2,
  hysteresis: 1,
  min_rows: 1,
  servers: ["*"],
  severity: "critical",
  labels: {},
  annotations: {},
};

describe("the history of a target", () => {
  test("ends a step before the origin, since a row is at the time at which its step begins", () =>
    expect(readColumn(windowOf([1, 2]), "cpu_user").times).toEqual([ORIGIN - 600, ORIGIN - 300]));
  test("keeps missing values", () => expect(readColumn(windowOf([1, null]), "cpu_user").values).toEqual([1, null]));
  test("of a feature that the model lacks is empty", () =>
    expect(readColumn(windowOf([1]), "gpu").values).toEqual([]));
  test("has no newest value if the newest row has none", () => {
    expect(newestValue(readColumn(windowOf([1, null]), "cpu_user"))).toBeNull();
    expect(newestValue(readColumn(windowOf([1, 7]), "cpu_user"))).toBe(7);
  });
});

describe("the window of a new server", () => {
  const [empty, half, whole] = [[null, null, null], [null, 5, null], [1, null, 2]] as (number | null)[][];
  const windowWith = (...values: (typeof empty)[]) => ({ ...windowOf([]), values: values as (number | null)[][] });
  test("begins with its first row, and keeps empty ones within", () =>
    expect(trimWindow(windowWith(empty, empty, half, empty, whole)).values).toEqual([half, empty, whole]));
  test("is kept where every row has a value, and where none has", () => {
    expect(trimWindow(windowWith(half, whole)).values).toEqual([half, whole]);
    expect(trimWindow(windowWith(empty)).values).toEqual([empty]);
  });
});

describe("gaps", () => {
  const column = readColumn(windowOf([null, null, 3, null, 5]), "cpu_user");
  const first = ORIGIN - 5 * STEP;
  test("run from the first missing step to the end of the last", () =>
    expect(findGaps(column, STEP)).toEqual([
      { from: first, to: first + 2 * STEP },
      { from: first + 3 * STEP, to: first + 4 * STEP },
    ]));
  test("of a silent server reach to the present", () =>
    expect(missingSpans(column, STEP, ORIGIN + 3000).at(-1)).toMatchObject({ from: ORIGIN, to: ORIGIN + 3000 }));
  test("at the end become one with the silence", () => {
    const spans = missingSpans(readColumn(windowOf([1, null]), "cpu_user"), STEP, ORIGIN + 3000);
    expect(spans).toHaveLength(1);
    expect(spans[0]).toMatchObject({ from: ORIGIN - STEP, to: ORIGIN + 3000, kind: "hatched" });
  });
  test("are none where every step has a value", () =>
    expect(missingSpans(readColumn(windowOf([1, 2]), "cpu_user"), STEP, null)).toEqual([]));
});

describe("whether a target is sent", () => {
  const rows = (values: (number | null)[]) => readColumn(windowOf(values), "cpu_user");
  test("a value in the newest twelfth of a full window is enough", () => {
    expect(judgeSending(rows([1, ...new Array<null>(23).fill(null)]), 288)).toBe("sent");
    expect(judgeSending(rows([1, ...new Array<null>(24).fill(null)]), 288)).toBe("silent");
  });
  test("no value at all is never sent", () => expect(judgeSending(rows([null, null]), 288)).toBe("never"));

  const say = (values: (number | null)[], forecast: { unknown?: string[] } | null) => {
    const facts = { target: "cpu_user", column: rows(values), contextLength: 288, stepSeconds: STEP };
    return describeSending({ ...facts, forecast }, ORIGIN)?.text;
  };
  test("a target that is never sent is said to be unknown in the forecast", () => {
    expect(say([null, null], { unknown: ["cpu_user"] })).toBe(
      "Never sent, or not for 1 d, so its forecast is unknown, and no rule alerts.",
    );
    expect(say([null, null], null)).toBe("Never sent, or not for 1 d.");
  });
  test("a forecast that is older than the first value does not know it yet", () => {
    expect(say([null, 1], { unknown: ["cpu_user"] })).toContain("came after the forecast");
    expect(say([1, 1], { unknown: ["mem_used"] })).toBeUndefined();
  });
  test("missing values are counted", () => expect(say([1, null, 2], {})).toBe("1 of 3 values are missing."));
  test("a target that is not sent any more is named with its last time", () =>
    expect(say([1, ...new Array<null>(24).fill(null)], {})).toMatch(/^No value since .*10:55, so the forecast/));
});

describe("a forecast that does not know a target", () => {
  const unknown = { ...FORECAST, targets: ["cpu_user", "mem_used"], values: [null, ...FORECAST.values], unknown: ["cpu_user"] };
  test("has no fan, crosses nothing and has no columns of it", () => {
    expect(buildFan(unknown, "cpu_user")).toBeNull();
    expect(findCrossings(unknown, RULE)).toEqual({ earliest: null, likely: null, latest: null });
    expect(firstCrossing([RULE], "cpu_user", unknown)).toBeNull();
    const source = { server: "a", window: windowOf([1]), forecast: unknown, targets: ["cpu_user", "mem_used"] };
    const [head, , first] = writeCsv(source, null).split("\r\n");
    expect(head).not.toContain("cpu_user_q");
    expect(first).toBe("2026-03-10T12:00:00.000Z,a,,,1,2,3,40,50,60,98");
  });
  test("is named among past forecasts", () => {
    const past = { origin: ORIGIN, model: "m", values: [null], unknown: ["cpu_user"], truth: [[1, 2]], is_complete: true };
    const accuracy: ServerAccuracy = { ...FORECAST, server: "a", forecasts: [past], scores: [], summary: [] };
    expect(describePast(accuracy, past, "cpu_user")).toBe("unknown, since no value had come");
    expect(isUnknown(curvesOf(accuracy, past), "cpu_user")).toBe(true);
    expect(countHeld(accuracy, past, "cpu_user").inside).toBe(0);
  });
});

describe("the condition of a server", () => {
  const facts = (change: Partial<ServerFacts> = {}): ServerFacts => ({
    have: 288,
    need: 48,
    origin: ORIGIN,
    forecastOrigin: ORIGIN,
    stepSeconds: STEP,
    ...change,
  });
  test("warming says how many rows are there, and when the rest will be", () => {
    const { condition, text } = judgeServer(facts({ have: 12, forecastOrigin: null }), ORIGIN);
    expect(condition).toBe("warming");
    expect(text).toContain("12 of 48 rows");
    expect(text).toContain("16:00"); // 36 rows of 5 min after 13:00 in Berlin
  });
  test("warming and silent promises no time", () => {
    const { text } = judgeServer(facts({ have: 12, forecastOrigin: null }), ORIGIN + 4000);
    expect(text).toContain("No row since");
    expect(text).toContain("36 more");
  });
  test("without a forecast it is pending", () =>
    expect(judgeServer(facts({ forecastOrigin: null }), ORIGIN).condition).toBe("pending"));
  test.each([
    [3 * STEP, "current"],
    [3 * STEP + 1, "stale"],
  ])("%d seconds after its newest row it is %s", (later, condition) =>
    expect(judgeServer(facts(), ORIGIN + later).condition).toBe(condition));
  test("a row ahead of the clock is named", () =>
    expect(judgeServer(facts(), ORIGIN - 3600).text).toContain("1 h ahead"));
});

describe("crossings", () => {
  test("lie on the line between two steps", () => expect(findCrossing([0, 300], [80, 100], 90, true)).toBe(150));
  test("below works the same", () => expect(findCrossing([0, 300], [20, 0], 5, false)).toBe(225));
  test("a curve that begins crossed crosses at once", () => expect(findCrossing([7, 300], [95, 1], 90, true)).toBe(7));
  test("a curve that never crosses has none", () => expect(findCrossing([0, 300], [1, 2], 90, true)).toBeNull());
  test("the earliest is that of the highest of three quantiles, for below of the lowest", () => {
    expect(findCrossings(FORECAST, RULE)).toEqual({ earliest: ORIGIN + 225, likely: null, latest: null });
    const { above: _, ...rest } = RULE;
    expect(findCrossings(FORECAST, { ...rest, below: 50 })).toEqual({ earliest: ORIGIN, likely: ORIGIN, latest: null });
  });
  test("the first of several rules is the one whose median crosses first", () => {
    const rules = [RULE, { ...RULE, rule: "half", above: 50 }, { ...RULE, rule: "never", above: 500 }];
    expect(firstCrossing(rules, "cpu_user", FORECAST)?.rule.rule).toBe("half");
    expect(firstCrossing(rules.slice(2), "cpu_user", FORECAST)).toBeNull();
    expect(firstCrossing(rules, "mem_used", FORECAST)).toBeNull();
  });
  test("are written in words", () => {
    const times = { earliest: ORIGIN + 3600, likely: ORIGIN + 7200, latest: null };
    expect(describeCrossing(times, ORIGIN)).toMatch(/^likely in 2 h \(.*15:00\), earliest in 1 h \(.*14:00\)$/);
    expect(describeCrossing({ earliest: ORIGIN + 3600, likely: null, latest: null }, ORIGIN)).toContain("not likely");
    expect(describeCrossing({ earliest: null, likely: null, latest: null }, ORIGIN)).toBe("");
    expect(describeCrossing({ earliest: ORIGIN, likely: ORIGIN, latest: ORIGIN }, ORIGIN)).toBe("likely now");
  });
});

describe("past forecasts", () => {
  const past: PastForecast = {
    origin: ORIGIN - 86_400,
    model: "m",
    values: [[[1, 2, 3], [1, 2, 3], [1, 2, 3]]],
    truth: [[2, 9, null]],
    is_complete: false,
  };
  const accuracy: ServerAccuracy = {
    server: "web-01",
    step_seconds: STEP,
    targets: ["cpu_user"],
    quantiles: [0.1, 0.5, 0.9],
    forecasts: [past],
    scores: [],
    summary: [],
  };
  const score = (change: Partial<Score>): Score => ({
    target: "cpu_user",
    range: "1-96",
    loss: 0.4,
    coverage: 0.79,
    mae: 0.93,
    count: 2688,
    ...change,
  });
  test("that of yesterday is the one nearest to a day ago", () => {
    const made = (hours: number) => ({ ...past, origin: ORIGIN - hours * 3600 });
    expect(yesterdayOrigin([made(30), made(23), made(3)], ORIGIN)).toBe(ORIGIN - 23 * 3600);
    expect(yesterdayOrigin([], ORIGIN)).toBeNull();
  });
  test("only values that came true are counted", () => {
    expect(countHeld(accuracy, past, "cpu_user")).toEqual({ inside: 1, count: 2, wanted: 0.8 });
    expect(describeHeld({ inside: 1, count: 2, wanted: 0.8 })).toBe("1 of 2 values lay in its 80 % band");
    expect(describeHeld({ inside: 0, count: 0, wanted: 0.8 })).toBe("nothing has come true yet");
  });
  test("are curves like the newest one", () =>
    expect(curvesOf(accuracy, past)).toMatchObject({ origin: past.origin, quantiles: [0.1, 0.5, 0.9] }));
  test("coverage is written with the number of values and a judgement", () =>
    expect(describeCoverage(score({}), 0.8)).toBe("The 80 % band held 79 % of 2,688 values: as it should be."));
  test.each([
    [0.5, 2688, "too narrow"],
    [0.95, 2688, "too wide"],
    [0.8, 2688, "as it should be"],
    [0.1, 192, "too few values"],
  ])("a coverage of %d over %d values is %s", (coverage, count, verdict) =>
    expect(judgeCoverage(coverage, 0.8, count)).toBe(verdict));
  test("the error has the unit of the target, and of percent is in points", () => {
    expect(describeError(score({}), "bytes/s")).toBe("The median was off by 0.93 B/s on average.");
    expect(describeError(score({}), "percent")).toBe("The median was off by 0.93 percentage points on average.");
  });
  test("the last summary of a target is over the whole horizon", () =>
    expect(wholeScores([score({ range: "1-24" }), score({ range: "1-96" })]).map(({ range }) => range)).toEqual(["1-96"]));
  test("the share of a band comes from its quantiles", () => expect(bandShare([0.1, 0.5, 0.9])).toBe(0.8));
});

describe("the chart of a target", () => {
  const source = (change: Partial<TargetSource> = {}): TargetSource => ({
    target: "cpu_user",
    unit: "percent",
    window: windowOf([1, null, 3]),
    forecast: FORECAST,
    rules: [RULE, { ...RULE, rule: "other", target: "mem_used" }],
    past: null,
    now: ORIGIN + 60,
    isStale: false,
    ...change,
  });
  test("has history and forecast over one list of times, and no value of one where the other is", () => {
    const spec = buildTargetSpec(source());
    expect(spec.times).toEqual([-900, -600, -300, 0, 300].map((offset) => ORIGIN + offset));
    const measured = spec.series.find(({ label }) => label === "Measured");
    expect(measured?.values).toEqual([1, null, 3, null, null]);
    expect(spec.series.find(({ label }) => label === "Forecast")?.values).toEqual([null, null, null, 40, 60]);
  });
  test("has the thresholds of its own rules only", () =>
    expect(buildTargetSpec(source()).thresholds).toMatchObject([{ value: 90, label: "cpu_full: above 90 %" }]));
  test("shades what is missing, and from the earliest crossing to the end", () => {
    const { spans } = buildTargetSpec(source());
    expect(spans).toMatchObject([
      { kind: "hatched", from: ORIGIN - 600, to: ORIGIN - 300 },
      { kind: "plain", from: ORIGIN + 225 },
    ]);
  });
  test("marks when the median reaches a threshold", () => {
    const rule = { ...RULE, above: 50 };
    const { marks } = buildTargetSpec(source({ rules: [rule] }));
    expect(marks?.at(-1)).toMatchObject({ at: ORIGIN + 150, color: "--critical" });
    expect(marks?.at(-1)?.label).toContain("13:02");
  });
  test("marks the present, unless the forecast is over", () => {
    expect(buildTargetSpec(source()).marks).toHaveLength(1);
    expect(buildTargetSpec(source({ now: ORIGIN + 9999 })).marks).toEqual([]);
  });
  test("shows a past forecast, and what came true before the window", () => {
    const values = [[[1, 2, 3], [1, 2, 3]]];
    const past = { origin: ORIGIN - 1200, model: "m", values, truth: [[5, 6]], is_complete: true };
    const accuracy = { server: "web-01", step_seconds: STEP, targets: ["cpu_user"], quantiles: [0.1, 0.5, 0.9] };
    const spec = buildTargetSpec(
      source({ past: { accuracy: { ...accuracy, forecasts: [past], scores: [], summary: [] }, forecast: past } }),
    );
    expect(spec.times[0]).toBe(ORIGIN - 1200);
    expect(spec.series.find(({ label }) => label === "Measured")?.values.slice(0, 3)).toEqual([5, 1, null]);
    expect(spec.series.find(({ label }) => label === "Past forecast")?.values.slice(0, 3)).toEqual([2, 2, null]);
    for (const { lower, upper } of spec.bands ?? []) {
      expect(spec.series[lower]?.kind).toBe("edge");
      expect(spec.series[upper]?.kind).toBe("edge");
    }
  });
});

describe("comma-separated values", () => {
  const source = { server: 'a "b", c', window: windowOf([1.25, null]), forecast: FORECAST, targets: ["cpu_user"] };
  const lines = writeCsv(source, null).split("\r\n");
  test("have a head with each quantile", () =>
    expect(lines[0]).toBe(
      "time,server,cpu_user,cpu_user_q0.02,cpu_user_q0.1,cpu_user_q0.25,cpu_user_q0.5,cpu_user_q0.75,cpu_user_q0.9,cpu_user_q0.98",
    ));
  test("have the numbers as they came, and nothing where there is none", () => {
    expect(lines[1]).toBe('2026-03-10T11:50:00.000Z,"a ""b"", c",1.25,,,,,,,');
    expect(lines[2]).toBe('2026-03-10T11:55:00.000Z,"a ""b"", c",,,,,,,,');
    expect(lines[3]).toBe('2026-03-10T12:00:00.000Z,"a ""b"", c",,1,2,3,40,50,60,98');
  });
  test("end each line with CR and LF", () => {
    expect(lines.at(-1)).toBe("");
    expect(lines).toHaveLength(6);
  });
  test("may be of a stretch of time", () =>
    expect(writeCsv(source, { from: ORIGIN, to: ORIGIN }).split("\r\n")).toHaveLength(3));
  test("hold no formulas of a spreadsheet", () =>
    expect(writeCsv({ ...source, server: "=1+1" }, null)).toContain(",'=1+1,"));
  test("are saved under a name that every file system takes", () =>
    expect(fileName("a/b:c", "cpu_user")).toBe("a_b_c-cpu_user.csv"));
});

describe("the zoom in the address", () => {
  test("is read as it was written", () =>
    expect(readZoom(writeZoom({ from: 1000.4, to: 2000 }))).toEqual({ from: 1000, to: 2000 }));
  test.each([{}, { from: "", to: "" }, { from: "x", to: "9" }, { from: "9", to: "1" }])("%o is none", (query) =>
    expect(readZoom(query as Record<string, string>)).toBeNull());
});

describe("suggestions", () => {
  test("are walked through in a circle, by way of the text itself", () => {
    expect(moveChoice(-1, 1, 2)).toBe(0);
    expect(moveChoice(1, 1, 2)).toBe(-1);
    expect(moveChoice(-1, -1, 2)).toBe(1);
    expect(moveChoice(-1, 1, 0)).toBe(-1);
  });
});
