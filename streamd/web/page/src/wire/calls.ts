/** Answers that several views read. Each call throws `WireError`. */
import { getJson } from "./api";
import type { Status } from "./status";
import type { AlertRule } from "./types";

/** The state of the daemon, and the contract of its model. */
export function readStatus(signal: AbortSignal): Promise<Status> {
  return getJson<Status>("v1/status", {}, signal);
}

/** The alert rules in their order; with a server, those of it. */
export async function readRules(signal: AbortSignal, server?: string): Promise<AlertRule[]> {
  return (await getJson<{ rules: AlertRule[] }>("v1/alerts/rules", { server }, signal)).rules;
}
