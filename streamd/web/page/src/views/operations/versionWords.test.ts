import { describe, expect, it } from "vitest";
import type { Engines, EngineVersion, Status } from "../../wire/status";
import { describeCandidate, describeGate, describePromotion, describeRollback } from "./versionWords";

describe("describeGate", () => {
  it("names each precision", () => {
    const gate = {
      fp16: { promotable: true, reasons: [] },
      int8: { promotable: false, reasons: ["coverage"] },
      bf16: { promotable: null, reasons: [] },
    };
    expect(describeGate(gate)).toBe("fp16 passed; int8 refused: coverage; bf16 was not judged");
    expect(describeGate({})).toBe("only fp32, which needs no gate");
  });
});

const version = (name: string, training_fleets = ["smd"]): EngineVersion => ({
  version: name,
  created_at: 0,
  architecture: "tft",
  precisions: ["fp32"],
  training_loss: 0.09,
  training_fleets,
  gate: {},
  is_promoted: false,
  is_default: false,
  problem: null,
  size_bytes: 1,
});
const engines: Engines = {
  serving: "old",
  previous: "older",
  candidate: null,
  pinned: false,
  problem: null,
  versions: [],
  history: [],
};
const status = {
  engine: "old",
  servers: 12,
  previous: null,
  candidate: null,
  keep_warm_seconds: 600,
  accuracy: { versions: { old: { loss: 0.12, training_loss: 0.08, training_fleets: ["smd"] } } },
} as unknown as Status;

describe("the consequence of a change", () => {
  it("of a promotion: what replaces what, the losses, how long, the way back", () => {
    const text = describePromotion(version("new"), engines, status).join(" ");
    expect(text).toContain("new replaces old, for all 12 servers.");
    expect(text).toContain("Its loss was 0.09 in training; that of old was 0.08 in training and is 0.12 live, on this fleet.");
    expect(text).toContain("old stays warm for 10 min; a rollback returns to it.");
    expect(text).not.toContain("do not compare");
  });

  it("of a promotion: losses of other fleets do not compare", () => {
    expect(describePromotion(version("new", ["own"]), engines, status).join(" ")).toContain("do not compare");
  });

  it("of a rollback: at once only while the version is warm", () => {
    expect(describeRollback(engines, status).join(" ")).toContain("takes seconds");
    const warm = { ...status, previous: { engine: "older", lanes: 1 } };
    expect(describeRollback(engines, warm).join(" ")).toContain("less than a second");
  });

  it("of a candidate: who gets its forecasts, and whether it compares", () => {
    expect(describeCandidate("new", 0.25, true, status).join(" ")).toMatch(/about 3 servers of 12.*no reader gets them/);
    expect(describeCandidate("new", 0.25, false, status).join(" ")).toMatch(/readers get its forecasts/);
  });
});
