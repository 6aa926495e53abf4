/** Data that a view reads by HTTP, again and again while it is open and seen. */
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { asWireError, type WireError } from "../wire/api";
import { returns } from "../wire/reach";
import { token, tokenWanted } from "../wire/session";

export interface Resource<T> {
  /** The newest data; kept while newer ones load, and while the daemon does not answer. */
  data: T | undefined;
  /** Why the last attempt failed; undefined after one that did not. */
  error: WireError | undefined;
  isLoading: boolean;
  /** When `data` came, in epoch seconds. */
  loadedAt: number | undefined;
  reload: () => void;
}

type State<T> = Omit<Resource<T>, "reload">;

/** What is refused is refused again; a daemon that comes back is noticed without this. */
const FAILED_SECONDS = 10;
const NOTHING = { data: undefined, error: undefined, loadedAt: undefined };

/**
 * Load when `deps` change and every so many seconds (0: once).
 *
 * Waits while the tab is hidden or the daemon wants a token, and loads again when the daemon is back after a failure.
 */
export function useResource<T>(
  load: (signal: AbortSignal) => Promise<T>,
  deps: readonly unknown[],
  everySeconds = 0,
): Resource<T> {
  const [state, setState] = useState<State<T>>({ ...NOTHING, isLoading: true });
  const [turn, setTurn] = useState(0);
  const reload = useCallback(() => setTurn((value) => value + 1), []);
  const identity = [...deps, token.value];
  const loaded = useRef<readonly unknown[]>([]);
  const hasFailed = useRef(false);
  const isBlocked = tokenWanted.value !== null;
  const comeback = hasFailed.current ? returns.value : returns.peek();
  useEffect(() => {
    // Data of other deps, or of another token, are not shown as if they were those of these.
    const isOther = identity.some((value, place) => value !== loaded.current[place]);
    setState((former) => ({ ...(isOther ? NOTHING : former), isLoading: true }));
    if (isBlocked) return;
    return repeat(everySeconds, async (signal) => {
      try {
        const data = await load(signal);
        if (signal.aborted) return true;
        loaded.current = identity;
        hasFailed.current = false;
        setState({ data, error: undefined, isLoading: false, loadedAt: Date.now() / 1000 });
      } catch (error) {
        if (signal.aborted) return false;
        hasFailed.current = true;
        setState((former) => ({ ...former, error: asWireError(error), isLoading: false }));
      }
      return !hasFailed.current;
    });
  }, [...identity, isBlocked, turn, everySeconds, comeback]);
  return { ...state, reload };
}

/**
 * Do something now and every so many seconds, but not while the tab is hidden; returns a function that ends it.
 *
 * `work` resolves to whether it succeeded; after a failure the wait is at least `FAILED_SECONDS`.
 */
export function repeat(everySeconds: number, work: (signal: AbortSignal) => Promise<boolean>): () => void {
  const abort = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isDue = false;
  const run = async () => {
    clearTimeout(timer);
    isDue = document.hidden && everySeconds > 0;
    if (isDue) return;
    const wait = (await work(abort.signal)) ? everySeconds : Math.max(everySeconds, FAILED_SECONDS);
    if (everySeconds > 0 && !abort.signal.aborted) timer = setTimeout(() => void run(), wait * 1000);
  };
  const runIfDue = () => {
    if (isDue && !document.hidden) void run();
  };
  document.addEventListener("visibilitychange", runIfDue);
  void run();
  return () => {
    abort.abort();
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", runIfDue);
  };
}
