/** Where the time between a sample and its forecast goes. */
import { Panel } from "../../ui/basics";
import { Explained } from "../../ui/explained";
import { DataTable, type Column } from "../../ui/table";
import { formatDelay } from "./amounts";
import { Change } from "./polls";

const LEVELS = [0.5, 0.9, 0.99];

const HISTOGRAMS = [
  ["Queue delay", "streamd_queue_delay_seconds", "How long the longest waiting window of a batch waited before it began. It grows when the lanes are at their limit."],
  ["On the lane", "streamd_inference_seconds", "How long the lane took for a batch."],
  ["Sample to reader", "streamd_forecast_age_seconds", "From the arrival of a sample until its forecast was written to the socket of a reader. Empty without readers."],
] as const;

const TERMS: (readonly [string, string])[] = [
  ...HISTOGRAMS.map(([label, , hint]) => [label, hint] as const),
  ["Half below", "The median. All are estimated from fixed buckets, as Prometheus does."],
];

interface Delay {
  label: string;
  hint: string;
  isRecent: boolean;
  quantiles: (number | null)[];
}

export function DelaysPanel({ change }: { change: Change }) {
  const sinceStart = new Change(undefined, change.now);
  const delays = HISTOGRAMS.map(([label, histogram, hint]): Delay => {
    const recent = change.quantiles(histogram, LEVELS);
    const isRecent = recent[0] !== null;
    return { label, hint, isRecent, quantiles: isRecent ? recent : sinceStart.quantiles(histogram, LEVELS) };
  });
  const columns: Column<Delay>[] = [
    { key: "label", label: "", cell: ({ label, hint }) => <span title={hint}>{label}</span> },
    {
      key: "when",
      label: "Period",
      cell: ({ isRecent }) => <span class="soft">{isRecent ? "last minute" : "since start"}</span>,
    },
    ...LEVELS.map((level, index): Column<Delay> => ({
      key: String(level),
      label: level === 0.5 ? "Half below" : `${level * 100} % below`,
      isNumber: true,
      cell: ({ quantiles }) => formatDelay(quantiles[index]),
    })),
  ];
  return (
    <Panel title="Delays">
      <DataTable caption="Delays" columns={columns} rows={delays} rowKey={({ label }) => label} />
      <Explained terms={TERMS} />
    </Panel>
  );
}
