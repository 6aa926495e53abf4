/** Where a row leads: a server to its view, a group to the list of its servers. */
import { linkTo, route } from "../../routing";
import { isGroup, type FleetRow } from "./rows";
import { writeState } from "./state";

/** The address of a group's servers: the present choice, within the group. */
export function linkOfGroup(prefix: string): string {
  const change = writeState({ prefix, isGrouped: false });
  return linkTo("fleet", { ...route.value.query, ...change });
}

/** Open a row as a click on its link does. */
export function openRow(row: FleetRow, chosenTarget: string): void {
  if (isGroup(row)) location.hash = linkOfGroup(row.prefix);
  else location.hash = linkTo("servers", { server: row.server, target: row.crossing?.target ?? chosenTarget });
}
