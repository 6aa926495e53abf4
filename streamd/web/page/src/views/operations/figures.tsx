/** The few numbers that say whether all is well, each with its last minutes. */
import type { ComponentChildren } from "preact";
import { formatDuration } from "../../format/times";
import { formatValue, formatWhole } from "../../format/values";
import { Stat } from "../../ui/basics";
import { formatDelay, formatPart, formatRate } from "./amounts";
import { computeBusyShare } from "./lanes";
import { changeOver, KEPT_SECONDS, rateSeries, type Change, type Poll } from "./polls";
import { Trend } from "./trend";

const TREND_SECONDS = 10;

export function FiguresPanel({ polls, change }: { polls: readonly Poll[]; change: Change }) {
  const { status } = change.now;
  const counts = (end: string) => (poll: Poll) => poll.status.rows[end] ?? 0;
  const trendOf = (read: (poll: Poll) => number) => rateSeries(polls, read, TREND_SECONDS);
  const [age = null, lateAge = null] = (changeOver(polls, KEPT_SECONDS) ?? change).quantiles(
    "streamd_forecast_age_seconds",
    [0.5, 0.99],
  );
  const busy = computeBusyShare(change);
  return (
    <section class="panel figures" aria-label="Figures">
      <dl class="stats">
        <Figure
          label="Forecasts"
          value={formatRate(change.rate(counts("delivered")))}
          trend={trendOf(counts("delivered"))}
        />
        <Figure label="Rows" value={formatRate(change.rate(counts("closed")))} trend={trendOf(counts("closed"))} />
        <Stat
          label="Sample to reader"
          value={formatDelay(age)}
          note={age === null ? "no reader lately" : `1 % above ${formatDelay(lateAge)}`}
        />
        <Stat
          label="Lanes busy"
          value={formatPart(busy)}
          note={busy !== null && busy > 0.9 ? "at their limit" : "of their time"}
        />
        <Stat
          label="Waiting"
          value={formatWhole(status.waiting)}
          note={`${formatWhole(status.in_flight)} on lanes`}
          tone={status.waiting > status.servers && status.servers > 0 ? "warning" : "neutral"}
        />
        <Figure
          label="Memory"
          value={formatValue(status.memory.resident_bytes, "bytes")}
          trend={polls.map((poll) => poll.status.memory.resident_bytes)}
        />
        <Stat label="Servers" value={formatWhole(status.servers)} note={`of at most ${formatWhole(status.capacity)}`} />
        <Stat label="Up" value={formatDuration(status.uptime_seconds)} />
      </dl>
    </section>
  );
}

function Figure(props: { label: string; value: ComponentChildren; trend: readonly number[] }) {
  return <Stat label={props.label} value={<span class="figure">{props.value}<TrendOf {...props} /></span>} />;
}

function TrendOf(props: { label: string; trend: readonly number[] }) {
  return <Trend values={props.trend} label={`${props.label} in the last minutes`} />;
}
