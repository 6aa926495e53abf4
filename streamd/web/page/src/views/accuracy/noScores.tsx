/** What to expect, and when, while no forecast has come true. */
import { formatCount } from "../../format/names";
import { formatDuration } from "../../format/times";
import { EmptyState } from "../../ui/basics";
import type { Status } from "../../wire/status";
import { scoringDelays } from "./judgements";

export function NoScores({ status }: { status: Status }) {
  const { accuracy, contract } = status;
  if (accuracy.scored_servers === 0) {
    return (
      <EmptyState title="Forecasts are not scored">
        <p>The setting scored_servers is 0. A number above it scores the forecasts of so many servers at a time.</p>
      </EmptyState>
    );
  }
  const { first, whole } = scoringDelays(accuracy, contract.horizon, contract.step_seconds);
  return (
    <EmptyState title="No forecast has come true yet">
      <p>
        A forecast is scored step by step, as its truth arrives: the first {formatDuration(first)} after the forecast, and
        its whole horizon {formatDuration(whole)} after it.
      </p>
      <p>{describeWait(status)}</p>
    </EmptyState>
  );
}

function describeWait({ accuracy, contract, servers }: Status): string {
  if (accuracy.held > 0) return `Waiting for their truth now: ${formatCount(accuracy.held, "forecast")}.`;
  if (servers === 0) return "No server has reported yet.";
  const history = formatDuration(contract.need * contract.step_seconds);
  return `A server is forecast once it has ${contract.need} rows: ${history} of history.`;
}
