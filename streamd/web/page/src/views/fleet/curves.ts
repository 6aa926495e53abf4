/** The forecasts of the servers in view, as three curves for each target. */
import { signal, type ReadonlySignal, type Signal } from "@preact/signals";
import type { ForecastFrame, ForecastsFrame } from "../../wire/types";

export interface Curve {
  origin: number;
  /** Seconds from the origin to the last point. */
  length: number;
  low: readonly number[];
  median: readonly number[];
  high: readonly number[];
}

export type Curves = ReadonlyMap<string, Curve>;

/** The quantiles of a model that are nearest to 0.1, 0.5 and 0.9, in ascending order. */
export function chooseQuantiles(quantiles: readonly number[]): number[] {
  const nearest = [0.1, 0.5, 0.9].map((wanted) =>
    quantiles.reduce((best, each) => (Math.abs(each - wanted) < Math.abs(best - wanted) ? each : best), quantiles[0] ?? 0.5),
  );
  return [...new Set(nearest)].sort((one, other) => one - other);
}

export class LoadedCurves {
  private servers = new Map<string, Signal<Curves | undefined>>();

  /** The curves of a server; undefined until its forecast came. */
  of(server: string): ReadonlySignal<Curves | undefined> {
    return this.make(server);
  }

  /** Forget the curves of all other servers. */
  keep(servers: ReadonlySet<string>): void {
    for (const server of this.servers.keys()) if (!servers.has(server)) this.servers.delete(server);
  }

  /** Take a batch frame; servers that are not kept are passed over. */
  takeBatch(frame: ForecastsFrame): void {
    frame.servers.forEach((server, number) => {
      const values = frame.values[number];
      const origin = frame.origins[number];
      if (values !== undefined && origin !== undefined) this.put(server, origin, values, frame);
    });
  }

  /** Take a frame of one forecast. */
  takeOne(frame: ForecastFrame): void {
    this.put(frame.server, frame.origin, frame.values, frame);
  }

  /** The number of servers in memory. */
  get size(): number {
    return this.servers.size;
  }

  private make(server: string): Signal<Curves | undefined> {
    const known = this.servers.get(server);
    if (known !== undefined) return known;
    const made = signal<Curves | undefined>(undefined);
    this.servers.set(server, made);
    return made;
  }

  private put(
    server: string,
    origin: number,
    values: readonly (readonly (readonly number[])[] | null)[],
    frame: { targets: string[]; step_seconds: number; every?: number },
  ): void {
    const place = this.servers.get(server);
    if (place === undefined) return;
    const curves = new Map<string, Curve>();
    frame.targets.forEach((target, number) => {
      const steps = values[number]; // null where the target is unknown
      if (steps) curves.set(target, makeCurve(origin, steps, frame.step_seconds * (frame.every ?? 1)));
    });
    place.value = curves;
  }
}

function makeCurve(origin: number, steps: readonly (readonly number[])[], seconds: number): Curve {
  const column = (pick: (step: readonly number[]) => number | undefined) => steps.map((step) => pick(step) ?? NaN);
  return {
    origin,
    length: steps.length * seconds,
    low: column((step) => step[0]),
    median: column((step) => step[step.length >> 1]),
    high: column((step) => step[step.length - 1]),
  };
}
