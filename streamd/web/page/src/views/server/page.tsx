/** One server: its history, its forecast live, thresholds, and how good its forecasts were. */
import { useEffect, useMemo } from "preact/hooks";
import { createChartGroup } from "../../chart/group";
import { showName } from "../../format/names";
import { now } from "../../format/times";
import { linkTo, route, updateQuery } from "../../routing";
import { EmptyState, ErrorNote, Loading } from "../../ui/basics";
import { ViewHead } from "../../ui/view";
import type { WireError } from "../../wire/api";
import type { Contract, ServerWindow } from "../../wire/types";
import { Ahead } from "./ahead";
import { yesterdayOrigin, type PastForecast, type ServerAccuracy } from "./accuracy";
import { Charts } from "./charts";
import { judgeServer } from "./condition";
import { useBasics, usePast, useServer } from "./data";
import { FreshnessLine } from "./freshness";
import { Picker } from "./picker";
import { CopyButtons, NO_PAST, PastChoice, TargetChoice } from "./tools";
import { Trust } from "./trust";
import { readZoom, writeZoom } from "./zoom";

export function ServerPage(props: { server: string }) {
  const { server } = props;
  const { contract, window } = useBasics(server);
  const failure = window.error ?? contract.error;
  return (
    <div class="stack">
      <ViewHead title={showName(server)} note={<a href={linkTo("fleet")}>All servers</a>} actions={<Picker server={server} />} />
      {failure !== undefined && (
        <Failure server={server} error={failure} onRetry={window.reload} hasData={window.data !== undefined} />
      )}
      {contract.data !== undefined && window.data !== undefined && failure?.status !== 404 ? (
        <ServerContent server={server} contract={contract.data} window={window.data} onRows={window.reload} />
      ) : (
        failure === undefined && <Loading what={server} />
      )}
    </div>
  );
}

function Failure(props: { server: string; error: WireError; onRetry: () => void; hasData: boolean }) {
  const { server, error, onRetry, hasData } = props;
  if (error.status === 404) {
    return (
      <EmptyState title={`No server named ${showName(server)} reports`}>
        <p>
          It may have been forgotten, or its name may be written in another way. Search for it above, or look at the
          fleet.
        </p>
      </EmptyState>
    );
  }
  if (error.status === 403) {
    return (
      <EmptyState title={`Your token is not for ${showName(server)}`}>
        <p>{error.message}</p>
      </EmptyState>
    );
  }
  return (
    <>
      <ErrorNote error={error} onRetry={onRetry} />
      {hasData && <p class="soft">What is shown was read before.</p>}
    </>
  );
}

function ServerContent(props: { server: string; contract: Contract; window: ServerWindow; onRows: () => void }) {
  const { server, contract, window } = props;
  const data = useServer(server, contract.horizon, props.onRows);
  const { query } = route.value;
  const minute = Math.floor(now.value / 60) * 60; // charts need not be built each second
  const freshness = judgeServer(
    {
      have: window.have,
      need: contract.need,
      origin: window.origin,
      forecastOrigin: data.forecast?.origin ?? (data.isForecastKnown ? null : window.origin),
      stepSeconds: window.step_seconds,
    },
    now.value,
  );
  const isStale = now.value - window.origin > 3 * window.step_seconds;
  const group = useZoom();
  const target = query["target"] ?? "";
  const pastOrigin = choosePast(query["past"], data.accuracy.data, window.origin);
  const past = usePastForecast(server, pastOrigin);
  const rules = data.rules.data ?? NONE;
  const alerts = data.alerts.data ?? NONE;
  const shown = contract.targets.includes(target) ? [target] : contract.targets;
  return (
    <>
      <FreshnessLine
        freshness={freshness}
        origin={window.origin}
        rows={window.have < contract.need ? "" : `${window.have} of ${contract.context_length} rows`}
        forecast={data.forecast}
        alerts={alerts}
      />
      <div class="toolbar">
        <TargetChoice targets={contract.targets} target={shown.length === 1 ? target : ""} />
        <PastChoice
          origins={data.accuracy.data?.forecasts.map(({ origin }) => origin) ?? NONE}
          origin={pastOrigin}
          now={minute}
        />
        <CopyButtons
          source={{ server, window, forecast: data.forecast, targets: shown }}
          range={group.zoom.value}
          target={shown.length === 1 ? target : ""}
        />
      </div>
      <Charts
        contract={contract}
        window={window}
        forecast={data.forecast}
        rules={rules}
        past={past}
        target={target}
        group={group}
        onZoom={(range) => updateQuery(writeZoom(range))}
        now={minute}
        isStale={isStale}
      />
      {data.rules.error !== undefined && <ErrorNote error={data.rules.error} onRetry={data.rules.reload} />}
      <Ahead server={server} rules={rules} alerts={alerts} forecast={data.forecast} />
      <Trust accuracy={data.accuracy} units={contract.units} />
    </>
  );
}

const NONE: never[] = [];

/** One group for all charts, whose zoom follows the address, also when the reader goes back. */
function useZoom() {
  const group = useMemo(() => createChartGroup(readZoom(route.peek().query)), []);
  const { from = "", to = "" } = route.value.query;
  useEffect(() => {
    const zoom = readZoom({ from, to });
    const shown = writeZoom(group.zoom.peek());
    if (shown["from"] !== from || shown["to"] !== to) group.zoom.value = zoom;
  }, [from, to]);
  return group;
}

/** The origin of the past forecast to show: the one in the address, else that of yesterday. */
function choosePast(wanted: string | undefined, accuracy: ServerAccuracy | undefined, present: number): number | null {
  if (wanted === NO_PAST || accuracy === undefined) return null;
  const origin = Number(wanted);
  if (wanted !== undefined && accuracy.forecasts.some((each) => each.origin === origin)) return origin;
  return yesterdayOrigin(accuracy.forecasts, present);
}

function usePastForecast(
  server: string,
  origin: number | null,
): { accuracy: ServerAccuracy; forecast: PastForecast } | null {
  const { data } = usePast(server, origin);
  return useMemo(() => {
    const forecast = data?.forecasts[0];
    return data == null || forecast === undefined ? null : { accuracy: data, forecast };
  }, [data]);
}
