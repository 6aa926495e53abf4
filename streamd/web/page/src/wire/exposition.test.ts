import { describe, expect, it } from "vitest";
import { parseExposition } from "./exposition";

const TEXT = `# HELP streamd_rows_total Closed rows by their end
# TYPE streamd_rows_total counter
streamd_rows_total{state="closed"} 8256.0
streamd_rows_total{state="delivered"} 4716.0
streamd_uptime_seconds 63.5
streamd_quota NaN

streamd_delay_bucket{le="0.5"} 2.0
streamd_delay_bucket{le="+Inf"} 5.0
streamd_delay_bucket{le="0.05"} 1.0
odd{a="say \\"hi\\", \\\\ and }",b="x\\ny"} -1e-3 1763709001000
`;

describe("parseExposition", () => {
  const reading = parseExposition(TEXT);

  it("finds values by name and labels", () => {
    expect(reading.get("streamd_uptime_seconds")).toBe(63.5);
    expect(reading.get("streamd_rows_total", { state: "delivered" })).toBe(4716);
    expect(reading.get("streamd_rows_total", { state: "failed" })).toBeUndefined();
    expect(reading.get("nothing")).toBeUndefined();
    expect(reading.get("streamd_quota")).toBeNaN();
  });

  it("adds up by label", () => {
    expect([...reading.byLabel("streamd_rows_total", "state")]).toEqual([
      ["closed", 8256],
      ["delivered", 4716],
    ]);
  });

  it("keeps some names alone", () => {
    const kept = reading.select(["streamd_uptime_seconds", "unknown"]);
    expect(kept.get("streamd_uptime_seconds")).toBe(63.5);
    expect(kept.list("streamd_rows_total")).toEqual([]);
    expect(kept.list("unknown")).toEqual([]);
  });

  it("sorts the buckets of a histogram by their bounds", () => {
    expect(reading.buckets("streamd_delay")).toEqual([
      [0.05, 1],
      [0.5, 2],
      [Infinity, 5],
    ]);
  });

  it("reads escapes, braces in values and times", () => {
    expect(reading.list("odd")).toEqual([{ labels: { a: 'say "hi", \\ and }', b: "x\ny" }, value: -0.001 }]);
  });

  it.each(["9name 1", "name", "name one", 'name{a="b} 1', "name{a=b} 1", 'name{a="b"; c="d"} 1', "name 1 2 3"])(
    "refuses %s, and names the line",
    (line) => {
      expect(() => parseExposition(`good 1\n${line}\n`)).toThrow(/line 2/);
    },
  );
});
