/** The measured values and the forecast of some targets as columns over one list of times. */
import { joinTimes, placeOn, stepTimes, type ForecastCurves } from "../../chart/fan";
import type { ServerWindow } from "../../wire/types";
import { readColumn } from "./history";

export interface TableSource {
  server: string;
  window: ServerWindow;
  forecast: ForecastCurves | null;
  targets: readonly string[];
}

export interface NamedColumn {
  name: string;
  values: (number | null)[];
}

/** Build the columns: of each target the measured values, then each quantile. */
export function buildColumns({ window, forecast, targets }: TableSource): { times: number[]; columns: NamedColumn[] } {
  const measured = targets.map((target) => readColumn(window, target));
  const steps = forecast?.values.find((rows) => rows !== null)?.length ?? 0;
  const ahead = forecast === null ? [] : stepTimes(forecast, steps);
  const times = joinTimes(...measured.map((column) => column.times), ahead);
  const place = placeOn(times);
  const columns = targets.flatMap((target, index): NamedColumn[] => [
    { name: target, values: place(measured[index]?.times ?? [], measured[index]?.values ?? []) },
    ...quantileColumns(forecast, target).map(({ name, values }) => ({ name, values: place(ahead, values) })),
  ]);
  return { times, columns };
}

function quantileColumns(forecast: ForecastCurves | null, target: string): NamedColumn[] {
  const rows = forecast?.values[forecast.targets.indexOf(target)];
  if (forecast === null || rows === undefined || rows === null) return [];
  return forecast.quantiles.map((quantile, place) => ({
    name: `${target}_q${quantile}`,
    values: rows.map((row) => row[place] ?? null),
  }));
}
