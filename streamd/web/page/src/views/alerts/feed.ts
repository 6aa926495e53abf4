/** The alerts, live: by the socket, and by calls for a token that may not subscribe. */
import { signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { useResource } from "../../ui/resource";
import { getJson, type WireError } from "../../wire/api";
import { live } from "../../wire/live";
import type { Alert } from "../../wire/types";
import { AlertBook, keyOf, mergeHistory } from "./book";

/** Frames that come together are drawn once; with thousands of alerts, each drawing takes a while. */
const DRAW_MS = 200;
const DRAW_MANY_MS = 1_000;
const MANY = 2_000;
const POLL_SECONDS = 10;

interface AlertsPage {
  alerts: Alert[];
}

export interface LiveAlerts {
  /** The pending and firing alerts; undefined until they are known. */
  active: ReadonlyMap<string, Alert> | undefined;
  /** The resolved ones, the newest first; undefined until they are known. */
  history: readonly Alert[] | undefined;
  error: WireError | undefined;
  reload: () => void;
  /** Moves whenever one of them changes. */
  version: number;
}

/** Follow the alerts while the view is open. */
export function useAlerts(): LiveAlerts {
  const { book, version } = useMemo(() => ({ book: new AlertBook(), version: signal(0) }), []);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const draw = () => {
      timer = undefined;
      version.value += 1;
    };
    const end = live.subscribe(
      { alerts: {} },
      {
        onAlerts: (frame) => {
          book.apply(frame);
          if (book.active !== undefined) timer ??= setTimeout(draw, version.peek() === 0 ? 0 : drawAfterMs(book));
        },
        onConnected: () => book.startAnew(),
      },
    );
    return () => {
      clearTimeout(timer);
      end();
    };
  }, []);
  const isRefused = live.connection.value === "refused";
  const polled = useResource(
    async (abort) => (isRefused ? listAlerts("firing,pending", abort) : undefined),
    [isRefused],
    isRefused ? POLL_SECONDS : 0,
  );
  const remembered = useResource(
    (abort) => listAlerts("resolved", abort),
    [isRefused],
    isRefused ? POLL_SECONDS : 0,
  );
  const changes = version.value;
  const active = useMemo(
    () => (isRefused ? polled.data && new Map(polled.data.map((alert) => [keyOf(alert), alert])) : book.active),
    [isRefused, polled.data, changes],
  );
  const history = useMemo(
    () => remembered.data && mergeHistory(remembered.data, book.ended),
    [remembered.data, changes],
  );
  return {
    active,
    history,
    error: polled.error ?? remembered.error,
    reload: () => {
      polled.reload();
      remembered.reload();
    },
    version: changes,
  };
}

function drawAfterMs({ active }: AlertBook): number {
  return (active?.size ?? 0) < MANY ? DRAW_MS : DRAW_MANY_MS;
}

async function listAlerts(state: string, abort: AbortSignal): Promise<Alert[]> {
  return (await getJson<AlertsPage>("v1/alerts", { state, limit: 1_000 }, abort)).alerts;
}
