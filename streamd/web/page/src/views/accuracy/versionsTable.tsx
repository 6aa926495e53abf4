/** The versions that are scored, side by side, with their drift against training. */
import { formatShare, formatWhole, round } from "../../format/values";
import { Badge } from "../../ui/basics";
import { Explained } from "../../ui/explained";
import { DataTable, type Column } from "../../ui/table";
import { DRIFT_LIMIT, judgeDrift, mainInterval, meanCoverage, nominalShare } from "./judgements";
import type { NamedVersion } from "./rangeBars";

export function VersionsTable({ versions, serving }: { versions: readonly NamedVersion[]; serving: string }) {
  const interval = mainInterval(Object.keys(Object.values(versions[0]?.scores.targets ?? {})[0]?.inside ?? {}));
  const columns: Column<NamedVersion>[] = [
    {
      key: "name",
      label: "Version",
      cell: ({ name, scores }) => (
        <span class="cluster">
          <span class="mono nowrap">{name}</span>
          {name === serving && <Badge tone="good">serves</Badge>}
          {scores.shadow && <Badge tone="info">shadow</Badge>}
        </span>
      ),
    },
    { key: "loss", label: "Loss, live", isNumber: true, cell: ({ scores }) => show(scores.loss) },
    { key: "training", label: "in training", isNumber: true, cell: ({ scores }) => show(scores.training_loss) },
    {
      key: "ratio",
      label: "Ratio",
      isNumber: true,
      cell: ({ scores }) => (scores.drift_ratio === null ? "–" : `${scores.drift_ratio.toFixed(2)} ×`),
    },
    {
      key: "drift",
      label: "Drift",
      cell: ({ scores }) => <Badge tone={judgeDrift(scores).tone}>{judgeDrift(scores).words}</Badge>,
    },
    ...(interval === undefined
      ? []
      : [
          {
            key: "coverage",
            label: `${Math.round(nominalShare(interval) * 100)} % bands held`,
            isNumber: true,
            cell: ({ scores }: NamedVersion) => formatShare(meanCoverage(scores, interval)),
          },
        ]),
    { key: "forecasts", label: "Forecasts", isNumber: true, cell: ({ scores }) => formatWhole(scores.forecasts) },
  ];
  return (
    <>
      <DataTable caption="Scores by version" columns={columns} rows={versions} rowKey={({ name }) => name} />
      <Explained
        terms={[
          ["Drift", `The live loss divided by that of training. Its growth means more than its level: this fleet is not the one of training. Above ${DRIFT_LIMIT} the fleet has changed, or a feature is missing or has another unit; see the runbook StreamdModelDrifts.`],
          ["Shadow", "A candidate whose forecasts are only scored; no reader gets them."],
        ]}
      />
    </>
  );
}

function show(loss: number | null): string {
  return loss === null ? "–" : round(loss);
}
