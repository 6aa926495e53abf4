/** Reads both documents of the daemon every two seconds, and keeps the last minutes of them. */
import { useMemo, useRef } from "preact/hooks";
import { useResource } from "../../ui/resource";
import { getText, type WireError } from "../../wire/api";
import { readStatus } from "../../wire/calls";
import { parseExposition } from "../../wire/exposition";
import { addPoll, type Poll } from "./polls";

const EVERY_SECONDS = 2;

/** What this view reads of the metrics: minutes of all of them would take tens of megabytes. */
const KEPT_NAMES = [
  "streamd_queue_delay_seconds_bucket",
  "streamd_inference_seconds_bucket",
  "streamd_forecast_age_seconds_bucket",
  "streamd_connections",
  "streamd_pending_bytes",
  "streamd_refused_requests_total",
  "streamd_remote_write_requests_total",
  "streamd_remote_write_waiting",
];

export interface Polls {
  polls: readonly Poll[];
  error: WireError | undefined;
  reload: () => void;
}

export function usePolls(): Polls {
  const { data, error, reload } = useResource(readPoll, [], EVERY_SECONDS);
  const kept = useRef<Poll[]>([]);
  const polls = useMemo(() => {
    if (data !== undefined) kept.current = addPoll(kept.current, data);
    return kept.current;
  }, [data]);
  return { polls, error, reload };
}

async function readPoll(signal: AbortSignal): Promise<Poll> {
  const [status, text] = await Promise.all([readStatus(signal), getText("metrics", signal)]);
  return { at: Date.now() / 1000, status, metrics: parseExposition(text).select(KEPT_NAMES) };
}
