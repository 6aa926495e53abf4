import { render } from "preact";
import { describe, expect, it } from "vitest";
import type { Status } from "../../wire/status";
import { NoScores } from "./noScores";

function show(change: { held?: number; servers?: number; scored_servers?: number }): string {
  const accuracy = { scored_servers: 512, held: 0, score_after_steps: 2, ...change };
  const contract = { horizon: 96, step_seconds: 300, need: 48 };
  const root = document.createElement("div");
  render(<NoScores status={{ accuracy, contract, servers: change.servers ?? 12 } as unknown as Status} />, root);
  return root.textContent ?? "";
}

describe("NoScores", () => {
  it("says when the first scores come", () => {
    expect(show({})).toContain("the first 15 min after the forecast, and its whole horizon 8 h 10 min after it");
  });

  it("says what is waited for", () => {
    expect(show({ held: 12 })).toContain("Waiting for their truth now: 12 forecasts.");
    expect(show({ servers: 0 })).toContain("No server has reported yet.");
    expect(show({})).toContain("A server is forecast once it has 48 rows: 4 h of history.");
  });

  it("says where scoring is off", () => expect(show({ scored_servers: 0 })).toContain("scored_servers is 0"));
});
