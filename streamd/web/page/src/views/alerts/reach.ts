/** Which active alerts a silence reaches. */
import type { Alert, Silence } from "../../wire/types";
import { matchesGlob } from "./names";

type Choice = Pick<Silence, "servers" | "rules">;

/** Whether a silence chooses an alert. */
export function choosesAlert({ servers, rules }: Choice, alert: Alert): boolean {
  return (rules === null || rules.includes(alert.rule)) && servers.some((glob) => matchesGlob(alert.server, glob));
}

/** How many alerts a silence chooses: those that fire and are silenced by nothing yet, and those that fire at all. */
export function countChosen(alerts: Iterable<Alert>, choice: Choice, present: number) {
  const counts = { firing: 0, unsilenced: 0, pending: 0 };
  for (const alert of alerts) {
    if (!choosesAlert(choice, alert)) continue;
    if (alert.state === "pending") counts.pending += 1;
    if (alert.state !== "firing") continue;
    counts.firing += 1;
    if ((alert.silenced_until ?? 0) <= present) counts.unsilenced += 1;
  }
  return counts;
}
