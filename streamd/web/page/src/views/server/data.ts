/** Everything that the view reads of one server: by calls, and live from the socket. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { ForecastCurves } from "../../chart/fan";
import { globOfName } from "../../format/names";
import { useResource, type Resource } from "../../ui/resource";
import { getJson } from "../../wire/api";
import { readRules, readStatus } from "../../wire/calls";
import { live } from "../../wire/live";
import type { Alert, AlertRule, Contract, ForecastFrame, ServerWindow } from "../../wire/types";
import type { ServerAccuracy } from "./accuracy";
import { trimWindow } from "./history";

/** The answer of `GET /v1/forecasts?server=NAME`; `status` is absent from a forecast. */
type ForecastAnswer = ForecastFrame | { server: string; status: string; have: number; need: number };

export type NewestForecast = ForecastFrame & ForecastCurves;

const POLL_SECONDS = 30;
/** Many rows may come within a moment; one call reads them all. */
const SETTLE_MS = 250;
const PAST_FORECASTS = 16;

/** What must be there before anything can be shown; a server that does not exist costs no more calls than these. */
export interface ServerBasics {
  contract: Resource<Contract>;
  window: Resource<ServerWindow>;
}

export interface ServerData {
  forecast: NewestForecast | null;
  /** Whether it is known that there is no forecast, so that none is claimed to be missing while the page loads. */
  isForecastKnown: boolean;
  rules: Resource<AlertRule[]>;
  alerts: Resource<Alert[]>;
  /** Scores, and the origins of past forecasts; their values are read when one is chosen. */
  accuracy: Resource<ServerAccuracy>;
}

/** Read the contract and the window of a server. */
export function useBasics(server: string): ServerBasics {
  const contract = useResource(
    async (signal) => (await readStatus(signal)).contract,
    [],
  );
  const window = useResource(
    async (signal) => trimWindow(await getJson<ServerWindow>("v1/servers", { server }, signal)),
    [server],
    POLL_SECONDS,
  );
  return { contract, window };
}

/** Read all else of a server, and keep it up to date while the component is there; `onRows` reads the window again. */
export function useServer(server: string, horizon: number, onRows: () => void): ServerData {
  const isLive = live.connection.value === "connected"; // forecasts are pushed then
  const answer = useResource(
    (signal) => getJson<ForecastAnswer>("v1/forecasts", { server }, signal),
    [server],
    isLive ? 10 * POLL_SECONDS : POLL_SECONDS,
  );
  const rules = useResource(
    (signal) => readRules(signal, server),
    [server],
    10 * POLL_SECONDS,
  );
  const alerts = useResource(
    async (signal) =>
      (await getJson<{ alerts: Alert[] }>("v1/alerts", { server, state: "firing,pending,resolved" }, signal)).alerts,
    [server],
    2 * POLL_SECONDS,
  );
  const accuracy = useResource(
    // all steps but the last are left out: the list needs the origins, not the values
    (signal) => getJson<ServerAccuracy>("v1/accuracy", { server, limit: PAST_FORECASTS, every: horizon }, signal),
    [server, horizon],
    10 * POLL_SECONDS,
  );
  const pushed = useLive(server, onRows, alerts.reload);
  const read = answer.data !== undefined && "values" in answer.data ? (answer.data as NewestForecast) : null;
  const forecast = newer(pushed, read);
  const isForecastKnown = forecast !== null || answer.data !== undefined;
  return { forecast, isForecastKnown, rules, alerts, accuracy };
}

/** Read one past forecast with its values; null while none is chosen. */
export function usePast(server: string, origin: number | null): Resource<ServerAccuracy | null> {
  return useResource(
    async (signal) =>
      origin === null
        ? null
        : getJson<ServerAccuracy>("v1/accuracy", { server, since: origin, until: origin, limit: 1 }, signal),
    [server, origin],
    origin === null ? 0 : 10 * POLL_SECONDS,
  );
}

/** The newer of two forecasts; the first one if they are as new. */
function newer(first: NewestForecast | null, second: NewestForecast | null): NewestForecast | null {
  if (first === null || second === null) return first ?? second;
  return second.origin > first.origin ? second : first;
}

function useLive(server: string, onRows: () => void, onAlerts: () => void): NewestForecast | null {
  const [forecast, setForecast] = useState<NewestForecast | null>(null);
  const latest = useRef({ onRows, onAlerts });
  latest.current = { onRows, onAlerts };
  useEffect(() => {
    setForecast(null);
    const timers = new Map<string, ReturnType<typeof setTimeout>>();
    const settle = (name: "onRows" | "onAlerts") => {
      clearTimeout(timers.get(name));
      timers.set(name, setTimeout(() => latest.current[name](), SETTLE_MS));
    };
    const end = live.subscribe(
      { forecasts: { servers: [globOfName(server)] }, alerts: { servers: [globOfName(server)] } },
      {
        onForecast: (frame) => {
          if (frame.server !== server) return; // of the subscription before
          setForecast(frame as NewestForecast);
          settle("onRows");
        },
        onAlerts: (frame) => {
          if (!frame.snapshot && frame.alerts.some((alert) => alert.server === server)) settle("onAlerts");
        },
        onConnected: () => settle("onRows"),
      },
    );
    return () => {
      end();
      for (const timer of timers.values()) clearTimeout(timer);
    };
  }, [server]);
  return forecast;
}
