/** The scores of one version by target: the loss, and how often each interval held. */
import { formatWhole, round } from "../../format/values";
import { Badge } from "../../ui/basics";
import { Bar } from "../../ui/bar";
import { DataTable, type Column } from "../../ui/table";
import type { TargetAccuracy, VersionAccuracy } from "../../wire/status";
import { CoverageTrack } from "./coverageTrack";
import { judgeCoverage, mainInterval, nominalShare } from "./judgements";

interface Target extends TargetAccuracy {
  name: string;
}

export function TargetsTable({ version }: { version: VersionAccuracy }) {
  const targets = Object.entries(version.targets).map(([name, scores]): Target => ({ name, ...scores }));
  const intervals = Object.keys(targets[0]?.inside ?? {}).reverse();
  const top = Math.max(...targets.map(({ loss }) => loss ?? 0), 1e-9);
  const columns: Column<Target>[] = [
    { key: "name", label: "Target", cell: ({ name }) => name },
    {
      key: "loss",
      label: "Loss",
      cell: ({ loss }) => (
        <span class="with-bar">
          <span class="bar-number">{loss === null ? "–" : round(loss)}</span>
          <Bar share={(loss ?? 0) / top} />
        </span>
      ),
    },
    ...intervals.map((interval): Column<Target> => {
      const nominal = nominalShare(interval);
      const percent = Math.round(nominal * 100);
      return {
        key: interval,
        label: `${percent} % band held`,
        cell: ({ name, inside }) => (
          <CoverageTrack
            share={inside[interval] ?? null}
            nominal={nominal}
            forecasts={version.forecasts}
            label={`${name}: the band from quantile ${interval.replace("-", " to ")} should hold ${percent} % of the values`}
          />
        ),
      };
    }),
    { key: "verdict", label: "Bands are", cell: (target) => <Verdict target={target} forecasts={version.forecasts} /> },
    { key: "values", label: "Values", isNumber: true, cell: ({ values }) => formatWhole(values) },
  ];
  return <DataTable caption="Scores by target" columns={columns} rows={targets} rowKey={({ name }) => name} />;
}

function Verdict({ target, forecasts }: { target: Target; forecasts: number }) {
  const interval = mainInterval(Object.keys(target.inside));
  if (interval === undefined) return null;
  const { tone, words } = judgeCoverage(target.inside[interval] ?? null, nominalShare(interval), forecasts);
  return <Badge tone={tone}>{words}</Badge>;
}
