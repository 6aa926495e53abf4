/** The numbers of a chart as a table, for those who cannot see it or want to read on. */
import { formatTime } from "../format/times";
import { DataTable } from "../ui/table";
import { listEntries, type ChartSpec, type TimeRange } from "./spec";

export function ChartTable(props: { spec: ChartSpec; label: string; range: TimeRange }) {
  const { spec, label, range } = props;
  const entries = listEntries(spec);
  const rows = spec.times
    .map((at, index) => ({ at, index }))
    .filter(({ at }) => at >= range.from && at <= range.to);
  return (
    <div class="chart-table">
      <DataTable
        caption={`${label}, as a table`}
        columns={[
          { key: "time", label: "Time", cell: ({ at }) => formatTime(at) },
          ...entries.map((entry) => ({
            key: entry.label,
            label: entry.label,
            isNumber: true,
            cell: ({ index }: { index: number }) => entry.read(index),
          })),
        ]}
        rows={rows}
        rowKey={({ at }) => String(at)}
        empty={<p>No points in this stretch of time.</p>}
      />
    </div>
  );
}
