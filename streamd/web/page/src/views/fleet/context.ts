/** What the rows of the list need of the view. It changes seldom, and then all rows are drawn again. */
import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { AlertRule, Contract } from "../../wire/types";
import type { FleetFeed } from "./feed";
import { isGroup, type FleetRow } from "./rows";

export interface FleetContext {
  feed: FleetFeed;
  rules: ReadonlyMap<string, AlertRule>;
  contract: Contract | undefined;
  /** The chosen target and rule; empty: all. */
  target: string;
  rule: string;
}

const Context = createContext<FleetContext | null>(null);

export const FleetProvider = Context.Provider;

export function useFleet(): FleetContext {
  const fleet = useContext(Context);
  if (fleet === null) throw new Error("a row of the fleet is drawn outside of its view");
  return fleet;
}

/** The target whose curve a row shows: that of its crossing, else the chosen one, else that of the first rule. */
export function targetOf(row: FleetRow, { rules, contract, target, rule }: Omit<FleetContext, "feed">): string {
  const first = rules.get(rule) ?? rules.values().next().value;
  return row.crossing?.target ?? (target || first?.target || contract?.targets[0] || "");
}

/** The threshold in the picture of a row: that of its crossing, else of a rule for all servers. */
export function thresholdOf(row: FleetRow, target: string, { rules, rule }: Omit<FleetContext, "feed">): number | null {
  const { crossing } = row;
  const candidates = rule === "" ? [...rules.values()] : [...rules.values()].filter((each) => each.rule === rule);
  const found =
    crossing?.target === target
      ? crossing
      : candidates.find((each) => each.target === target && each.servers.includes("*") && !isGroup(row));
  return found?.above ?? found?.below ?? null;
}
