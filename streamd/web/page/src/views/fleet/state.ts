/** The state of the view as the address has it, and as the daemon is asked for it. */
import type { ViewQuery } from "../../routing";
import type { FleetFilter, FleetQuery } from "../../wire/types";

export type FleetSort = "worst" | "name" | "age";

export interface FleetState {
  search: string;
  /** The prefix of the group whose servers are shown; empty: all. */
  prefix: string;
  target: string;
  rule: string;
  filters: FleetFilter[];
  sort: FleetSort;
  isGrouped: boolean;
}

const FILTERS: readonly FleetFilter[] = ["firing", "pending", "stale", "warming", "current"];
export const SORTS: readonly { value: FleetSort; label: string }[] = [
  { value: "worst", label: "Worst first" },
  { value: "name", label: "Name" },
  { value: "age", label: "Oldest forecast" },
];

/** Read the state from the query of the address; what it does not know has its default. */
export function readState(query: ViewQuery): FleetState {
  const filters = (query["condition"] ?? "").split(",");
  return {
    search: query["search"] ?? "",
    prefix: query["prefix"] ?? "",
    target: query["target"] ?? "",
    rule: query["rule"] ?? "",
    filters: FILTERS.filter((each) => filters.includes(each)),
    sort: SORTS.find(({ value }) => value === query["sort"])?.value ?? "worst",
    isGrouped: query["group"] === "true",
  };
}

/** The query of the address for a change of the state; defaults are empty, so they do not appear in it. */
export function writeState(change: Partial<FleetState>): ViewQuery {
  const query: ViewQuery = {};
  if (change.search !== undefined) query["search"] = change.search;
  if (change.prefix !== undefined) query["prefix"] = change.prefix;
  if (change.target !== undefined) query["target"] = change.target;
  if (change.rule !== undefined) query["rule"] = change.rule;
  if (change.filters !== undefined) query["condition"] = change.filters.join(",");
  if (change.sort !== undefined) query["sort"] = change.sort === "worst" ? "" : change.sort;
  if (change.isGrouped !== undefined) query["group"] = change.isGrouped ? "true" : "";
  return query;
}

/** What the daemon is asked for, without the part of the list. */
export function askFor(state: FleetState): FleetQuery {
  return {
    ...(state.search === "" ? {} : { search: state.search }),
    ...(state.prefix === "" ? {} : { prefix: state.prefix }),
    ...(state.target === "" ? {} : { target: state.target }),
    ...(state.rule === "" ? {} : { rule: state.rule }),
    ...(state.filters.length === 0 ? {} : { condition: state.filters }),
    ...(state.isGrouped ? { group: true } : {}),
    sort: state.sort,
  };
}

/** Whether the state leaves out some of the servers. */
export function isNarrowed(state: FleetState): boolean {
  return state.search !== "" || state.prefix !== "" || state.filters.length > 0 || state.target !== "" || state.rule !== "";
}

/** How many choices beside the search differ from their defaults. */
export function countChoices({ target, rule, sort, isGrouped }: FleetState): number {
  return [target !== "", rule !== "", sort !== "worst", isGrouped].filter(Boolean).length;
}

/** Put a filter in or take it out. */
export function toggleFilter(filters: readonly FleetFilter[], filter: FleetFilter): FleetFilter[] {
  return FILTERS.filter((each) => (each === filter ? !filters.includes(each) : filters.includes(each)));
}
