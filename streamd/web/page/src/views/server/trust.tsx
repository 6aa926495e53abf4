/** How far forecasts of this server can be trusted: its scores in words. */
import { Badge, ErrorNote, Loading, Panel, type Tone } from "../../ui/basics";
import type { Resource } from "../../ui/resource";
import { DataTable } from "../../ui/table";
import { formatValue } from "../../format/values";
import {
  bandShare,
  describeCoverage,
  describeError,
  judgeCoverage,
  wholeScores,
  type ServerAccuracy,
  type Verdict,
} from "./accuracy";

const VERDICT_TONES: Record<Verdict, Tone> = {
  "as it should be": "good",
  "too narrow": "warning",
  "too wide": "info",
  "too few values": "muted",
};

export function Trust(props: { accuracy: Resource<ServerAccuracy>; units: Record<string, string> }) {
  const { accuracy, units } = props;
  const data = accuracy.data;
  return (
    <Panel title="How good its forecasts were">
      {accuracy.error !== undefined && <ErrorNote error={accuracy.error} onRetry={accuracy.reload} />}
      {data === undefined && accuracy.error === undefined && <Loading what="scores" />}
      {data !== undefined && (
        <DataTable
          caption="Scores of past forecasts of this server, by target"
          rows={wholeScores(data.summary)}
          rowKey={({ target }) => target}
          empty={
            <p class="soft">
              No forecast of this server is scored yet. One is kept every few hours, and scored when its horizon is
              over.
            </p>
          }
          columns={[
            { key: "target", label: "Target", cell: ({ target }) => target },
            {
              key: "band",
              label: "Band",
              cell: (score) => {
                const verdict = judgeCoverage(score.coverage, bandShare(data.quantiles), score.count);
                return (
                  <span class="nowrap">
                    <Badge tone={VERDICT_TONES[verdict]}>{verdict}</Badge>
                  </span>
                );
              },
            },
            {
              key: "words",
              label: "In words",
              cell: (score) => (
                <span class="server-words">
                  {describeCoverage(score, bandShare(data.quantiles))} {describeError(score, units[score.target] ?? "")}
                </span>
              ),
            },
            {
              key: "loss",
              label: "Pinball loss",
              isNumber: true,
              cell: ({ loss, target }) => formatValue(loss, units[target] ?? ""),
            },
          ]}
        />
      )}
    </Panel>
  );
}
