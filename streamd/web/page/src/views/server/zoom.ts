/** The zoom in the address: `from` and `to` in epoch seconds. */
import type { TimeRange } from "../../chart/spec";
import type { ViewQuery } from "../../routing";

/** Read the zoom; null without one that makes sense. */
export function readZoom(query: ViewQuery): TimeRange | null {
  const from = Number(query["from"] ?? NaN);
  const to = Number(query["to"] ?? NaN);
  return Number.isFinite(from) && Number.isFinite(to) && to > from && query["from"] !== "" ? { from, to } : null;
}

/** Write the zoom; without one the two are left out. */
export function writeZoom(range: TimeRange | null): ViewQuery {
  return range === null
    ? { from: "", to: "" }
    : { from: String(Math.round(range.from)), to: String(Math.round(range.to)) };
}
