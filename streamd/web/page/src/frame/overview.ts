/** What the frame shows of the daemon, read every few seconds: also while the tab is hidden, for its title. */
import { computed, effect, signal, untracked } from "@preact/signals";
import { getJson, WireError } from "../wire/api";
import { token, tokenWanted } from "../wire/session";

export interface Overview {
  engine: string;
  backend: string;
  servers: number;
  draining: boolean;
  alerts?: { firing: number; pending: number; silenced?: number };
}

const EVERY_MS = 10_000;
const EVERY_AWAY_MS = 3_000;
const EVERY_REFUSED_MS = 60_000;

/** The newest overview; undefined until there is one, and for callers that may not read it. */
export const overview = signal<Overview | undefined>(undefined);

/** How many alerts fire and are not silenced, of all servers. */
export const firing = computed(() => {
  const alerts = overview.value?.alerts;
  return alerts === undefined ? 0 : Math.max(0, alerts.firing - (alerts.silenced ?? 0));
});

/** Read the overview while the page is open; returns a function that ends it. */
export function followOverview(): () => void {
  let end = () => {};
  const stop = effect(() => {
    end();
    // Another token may see other things, and without a valid one there is nothing to see.
    const isBlocked = tokenWanted.value !== null;
    void token.value;
    end = untracked(() => (isBlocked ? forget() : poll()));
  });
  return () => {
    stop();
    end();
  };
}

function forget(): () => void {
  overview.value = undefined;
  return () => {};
}

function poll(): () => void {
  const abort = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const run = async () => {
    let wait = EVERY_MS;
    try {
      const next = await getJson<Overview>("v1/status", {}, abort.signal);
      if (!abort.signal.aborted) overview.value = next;
    } catch (error) {
      if (abort.signal.aborted) return;
      const isAway = error instanceof WireError && error.isAway;
      wait = isAway ? EVERY_AWAY_MS : EVERY_REFUSED_MS;
      if (!isAway) overview.value = undefined; // this caller may not read it
    }
    if (!abort.signal.aborted) timer = setTimeout(() => void run(), wait);
  };
  void run();
  return () => {
    abort.abort();
    clearTimeout(timer);
  };
}
