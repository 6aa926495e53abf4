/** How the daemon works: problems first, then what serves, lanes, batches, delays, samples, and what is around them. */
import "../../styles/operations.css";
import { ErrorNote, Loading } from "../../ui/basics";
import { ViewHead } from "../../ui/view";
import { BatchesPanel } from "./batches";
import { DelaysPanel } from "./delays";
import { FiguresPanel } from "./figures";
import { describeDaemon } from "./headline";
import { LanesPanel } from "./lanes";
import { changeOver, type Change } from "./polls";
import { ProblemsPanel } from "./problemsPanel";
import { AgentsPanel, SamplesPanel } from "./samples";
import { BackendPanel, ReadersPanel, StatePanel } from "./surroundings";
import { usePolls } from "./usePolls";
import { VersionsPanel } from "./versions";

/** Rates are those of the last minute: a small fleet sends little in a second. */
const RATE_SECONDS = 60;

export function OperationsView() {
  const { polls, error, reload } = usePolls();
  const change = changeOver(polls, RATE_SECONDS);
  return (
    <>
      <ViewHead title="Operations" {...(change === undefined ? {} : { note: describeDaemon(change) })} />
      <div class="stack">
        {error !== undefined && error.status !== 0 && <ErrorNote error={error} onRetry={reload} />}
        {change === undefined ? error === undefined && <Loading what="the state of the daemon" /> : (
          <>
            <ProblemsPanel change={change} />
            <FiguresPanel polls={polls} change={change} />
            <VersionsPanel status={change.now.status} onChanged={reload} />
            <Panels change={change} />
          </>
        )}
      </div>
    </>
  );
}

function Panels({ change }: { change: Change }) {
  const { status } = change.now;
  return (
    <div class="operations-panels">
      <LanesPanel change={change} />
      <BatchesPanel status={status} />
      <DelaysPanel change={change} />
      <SamplesPanel change={change} />
      <AgentsPanel change={change} />
      <BackendPanel status={status} />
      <StatePanel change={change} />
      <ReadersPanel change={change} />
    </div>
  );
}
