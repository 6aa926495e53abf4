/** What happened between two readings of a daemon: rates of counters, shares of time, quantiles of histograms. Pure. */
import type { Bucket, MetricsReading } from "../../wire/exposition";
import type { Status } from "../../wire/status";

/** One reading of both documents. */
export interface Poll {
  /** Epoch seconds. */
  at: number;
  status: Status;
  metrics: MetricsReading;
}

export const KEPT_SECONDS = 300;

/** Add a poll; those before a restart of the daemon and those that are too old are dropped. */
export function addPoll(polls: readonly Poll[], poll: Poll): Poll[] {
  const last = polls.at(-1);
  if (last !== undefined && poll.at <= last.at) return [...polls];
  const isRestarted = last !== undefined && poll.status.uptime_seconds < last.status.uptime_seconds;
  if (isRestarted) return [poll];
  return [...polls.filter((each) => poll.at - each.at <= KEPT_SECONDS), poll];
}

/** The change over the last `seconds`, or over as much as is known. */
export function changeOver(polls: readonly Poll[], seconds: number): Change | undefined {
  const now = polls.at(-1);
  if (now === undefined) return undefined;
  return new Change(
    polls.find((each) => each !== now && now.at - each.at <= seconds),
    now,
  );
}

/** From one poll to a later one; rates are null while there is only one. */
export class Change {
  readonly seconds: number;

  constructor(
    private readonly before: Poll | undefined,
    readonly now: Poll,
  ) {
    this.seconds = before === undefined ? 0 : now.at - before.at;
  }

  /** The increase of a counter in a second. */
  rate(read: (poll: Poll) => number | undefined): number | null {
    const increase = this.increase(read);
    return increase === null ? null : increase / this.seconds;
  }

  /** The increase of a counter; null without an earlier poll. */
  increase(read: (poll: Poll) => number | undefined): number | null {
    if (this.before === undefined || this.seconds <= 0) return null;
    return Math.max((read(this.now) ?? 0) - (read(this.before) ?? 0), 0);
  }

  /** Quantiles of the observations in between; null for each if there were none. */
  quantiles(histogram: string, levels: readonly number[]): (number | null)[] {
    const earlier = new Map(this.before?.metrics.buckets(histogram));
    const buckets = this.now.metrics.buckets(histogram);
    const between = buckets.map(([bound, count]): Bucket => [bound, count - (earlier.get(bound) ?? 0)]);
    return levels.map((level) => estimateQuantile(between, level));
  }
}

/** Estimate a quantile from cumulative buckets, linear inside of one; the highest finite bound if it lies above it. */
export function estimateQuantile(buckets: readonly Bucket[], level: number): number | null {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  const rank = level * total;
  let [lowerBound, lowerCount] = [0, 0];
  for (const [bound, count] of buckets) {
    if (count >= rank && count > lowerCount) {
      if (bound === Infinity) return lowerBound;
      return lowerBound + ((bound - lowerBound) * (rank - lowerCount)) / (count - lowerCount);
    }
    [lowerBound, lowerCount] = [bound, count];
  }
  return lowerBound;
}

/** The rate of a counter between each poll and the one some seconds before it, for a small chart. */
export function rateSeries(polls: readonly Poll[], read: (poll: Poll) => number, overSeconds: number): number[] {
  const series: number[] = [];
  let first = 0;
  polls.forEach((poll, index) => {
    if (index === 0) return;
    while (first < index - 1 && poll.at - (polls[first]?.at ?? 0) > overSeconds) first += 1;
    const before = polls[first];
    if (before !== undefined) series.push(Math.max(read(poll) - read(before), 0) / (poll.at - before.at));
  });
  return series;
}
