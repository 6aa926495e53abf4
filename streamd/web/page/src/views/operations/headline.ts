/** The state of a daemon in one sentence. Pure. */
import { formatCount } from "../../format/names";
import type { Status } from "../../wire/status";
import { formatRate } from "./amounts";
import type { Change } from "./polls";

/** `All 3 lanes work; 12 servers; 96 forecasts/s; nothing waits.` */
export function describeDaemon(change: Change): string {
  const { status } = change.now;
  if (status.draining) return "The daemon is stopping.";
  const rate = change.rate((poll) => poll.status.rows["delivered"]);
  const parts = [
    describeLanes(status),
    formatCount(status.servers, "server"),
    ...(rate === null ? [] : [describeRate(rate)]),
    describeWaiting(status.waiting),
  ];
  return `${parts.join("; ")}.`;
}

function describeRate(rate: number): string {
  if (rate === 0) return "no forecast in this minute";
  return formatRate(rate).replace("/", " forecasts/");
}

function describeWaiting(waiting: number): string {
  return waiting === 0 ? "nothing waits" : `${formatCount(waiting, "window")} ${waiting === 1 ? "waits" : "wait"}`;
}

function describeLanes({ lanes, lanes_lost, ready }: Status): string {
  if (!ready || lanes.length === 0) return "No lane works";
  if (lanes_lost.length > 0) return `${formatCount(lanes.length, "lane")} ${lanes.length === 1 ? "works" : "work"}`;
  return lanes.length === 1 ? "The lane works" : `All ${lanes.length} lanes work`;
}
