/** Versions that forecast the same servers from the same origins, compared pair by pair. */
import { describeComparison, judge, STANDINGS } from "../../format/comparisons";
import { formatVersion } from "../../format/names";
import { Badge, Panel } from "../../ui/basics";
import { Explained } from "../../ui/explained";
import { DataTable, type Column } from "../../ui/table";
import type { ComparisonStatus, PairedLoss } from "../../wire/status";
import { describeRange } from "./judgements";

type Range = PairedLoss & { steps: string };

export function ComparisonsPanel(props: { comparisons: readonly ComparisonStatus[]; stepSeconds: number }) {
  const { comparisons, stepSeconds } = props;
  if (comparisons.length === 0) return null;
  return (
    <Panel title="Versions compared">
      {comparisons.map((pair) => (
        <section key={`${pair.first} ${pair.second}`} class="comparison">
          <h3>
            {formatVersion(pair.second)} against {formatVersion(pair.first)}
          </h3>
          <p>{describeComparison(pair)}</p>
          <DataTable
            caption={`${pair.second} against ${pair.first}, by how far ahead`}
            columns={rangeColumns(stepSeconds)}
            rows={pair.by_range}
            rowKey={({ steps }) => steps}
          />
        </section>
      ))}
      <Explained
        terms={[
          ["Difference", "The loss of the second version less that of the first, over forecasts that both made of the same server from the same origin. Below zero the second is better."],
          ["±", "Two standard errors, one forecast being one observation. It is too small if servers fail together."],
        ]}
      />
    </Panel>
  );
}

function rangeColumns(stepSeconds: number): Column<Range>[] {
  return [
    { key: "steps", label: "Ahead", cell: ({ steps }) => <span class="nowrap">{describeRange(steps, stepSeconds)}</span> },
    { key: "difference", label: "Difference", isNumber: true, cell: (row) => describeDifference(row) },
    { key: "forecasts", label: "Forecasts", isNumber: true, cell: ({ forecasts }) => forecasts },
    {
      key: "verdict",
      label: "The second is",
      cell: (row) => <Badge tone={STANDINGS[judge(row)].tone}>{STANDINGS[judge(row)].words}</Badge>,
    },
  ];
}

function describeDifference({ difference, standard_error }: PairedLoss): string {
  if (difference === null) return "–";
  const sign = difference > 0 ? "+" : difference < 0 ? "−" : "";
  const error = standard_error === null ? "" : ` ± ${(2 * standard_error).toFixed(4)}`;
  return `${sign}${Math.abs(difference).toFixed(4)}${error}`;
}
