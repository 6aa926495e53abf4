/** The candidate: what it does, and how it compares with what serves. */
import { describeComparison, findComparison, judge, STANDINGS } from "../../format/comparisons";
import { formatCount } from "../../format/names";
import { formatWhole } from "../../format/values";
import { Badge } from "../../ui/basics";
import type { PairedLoss, Status } from "../../wire/status";
import { formatPart } from "./amounts";

export function CandidateNote({ status }: { status: Status }) {
  const { candidate } = status;
  if (candidate === null) return null;
  const pair = findComparison(status.accuracy.comparisons, status.engine, candidate.version);
  const { tone, words } = STANDINGS[pair === undefined ? "early" : judge(pair)];
  return (
    <div class="candidate-note tone-info" role="group" aria-label="Candidate">
      <p>
        <strong class="mono">{candidate.version}</strong> is tried as a {candidate.shadow ? "shadow" : "canary"} on{" "}
        {formatPart(candidate.share)} of the servers, with {formatCount(candidate.lanes, "lane")};{" "}
        {formatWhole(candidate.rows["delivered"] ?? 0)} forecasts{candidate.shadow ? ", which are only scored" : " delivered"}.
      </p>
      <p>
        <Badge tone={tone}>{words}</Badge> {describeCandidatePair(pair, candidate.shadow)}
      </p>
    </div>
  );
}

function describeCandidatePair(pair: PairedLoss | undefined, isShadow: boolean): string {
  if (pair !== undefined) return `${describeComparison(pair)} The error is too small if servers fail together.`;
  if (isShadow) return "No forecast of both versions has come true yet.";
  return "A canary forecasts other servers than the version that serves, so their losses are not compared on the same forecasts.";
}
