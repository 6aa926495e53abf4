/** Which forecasts are scored, and what became of them. */
import { formatCount } from "../../format/names";
import { formatDuration } from "../../format/times";
import { Panel } from "../../ui/basics";
import type { Status } from "../../wire/status";
import { describePeriod, scoringDelays } from "./judgements";

export function SamplingPanel({ status }: { status: Status }) {
  const { accuracy, accuracy_history, contract } = status;
  const { sampled } = accuracy;
  const { first, whole } = scoringDelays(accuracy, contract.horizon, contract.step_seconds);
  return (
    <Panel title="What is scored">
      <dl class="facts">
        <dt>At a time</dt>
        <dd>
          {formatCount(accuracy.held, "forecast")} waiting for the truth, of at most{" "}
          {formatCount(accuracy.scored_servers, "server")}, one each
        </dd>
        <dt>Period</dt>
        <dd>{describePeriod(accuracy.window_steps * contract.step_seconds)}; lost when the daemon restarts</dd>
        <dt>Scored</dt>
        <dd>
          step by step, from {formatDuration(first)} to {formatDuration(whole)} after the forecast
        </dd>
        <dt>Since start</dt>
        <dd>
          {formatCount(sampled["opened"] ?? 0, "forecast")} chosen, {sampled["finished"] ?? 0} scored to the end,{" "}
          {sampled["expired"] ?? 0} expired without all of the truth
        </dd>
        <dt>History</dt>
        <dd>
          {formatCount(accuracy_history.forecasts, "forecast")} of {formatCount(accuracy_history.servers, "server")} kept
          on disk; the view of a server shows its own
        </dd>
      </dl>
    </Panel>
  );
}
