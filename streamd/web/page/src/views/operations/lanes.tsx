/** The lanes: what each has run lately, and those that were lost. */
import { formatWhole } from "../../format/values";
import { Badge, EmptyState, Panel } from "../../ui/basics";
import { Bar } from "../../ui/bar";
import { Explained } from "../../ui/explained";
import { DataTable, type Column } from "../../ui/table";
import type { LaneStatus } from "../../wire/status";
import { formatPart, formatRate } from "./amounts";
import type { Change, Poll } from "./polls";

const TERMS = [
  ["Lane", "What runs one batch at a time: a CUDA stream, or a session of ONNX Runtime with its thread."],
  ["Busy", "The share of the last minute in which it ran a batch. Near 100 % on all lanes, work begins to wait."],
  ["Windows", "The histories of servers that it forecast, one for each forecast."],
  ["Lost", "Its device reported an error, or it did not answer. Its batch moved to another lane, and it is made anew."],
] as const;

/** The share of the time in which the lanes ran, a mean over all; null before the second poll. */
export function computeBusyShare(change: Change): number | null {
  const { lanes } = change.now.status;
  const shares = lanes.map((lane) => busyShareOf(change, lane.name)).filter((share) => share !== null);
  return shares.length === 0 ? null : shares.reduce((sum, share) => sum + share, 0) / shares.length;
}

function busyShareOf(change: Change, name: string): number | null {
  const share = change.rate((poll) => findLane(poll, name)?.busy_seconds);
  return share === null ? null : Math.min(share, 1);
}

function findLane(poll: Poll, name: string): LaneStatus | undefined {
  return poll.status.lanes.find((lane) => lane.name === name);
}

export function LanesPanel({ change }: { change: Change }) {
  const { lanes, lanes_lost } = change.now.status;
  const columns: Column<LaneStatus>[] = [
    { key: "name", label: "Lane", cell: (lane) => <span class="nowrap" title={describeDetails(lane)}>{lane.name}</span> },
    { key: "device", label: "Device", cell: (lane) => lane.device },
    { key: "busy", label: "Busy", cell: (lane) => <Busy share={busyShareOf(change, lane.name)} /> },
    {
      key: "windows",
      label: "Windows",
      isNumber: true,
      cell: (lane) => formatRate(change.rate((poll) => findLane(poll, lane.name)?.windows)),
    },
    { key: "batches", label: "Batches since start", isNumber: true, cell: (lane) => formatWhole(lane.batches) },
    {
      key: "failures",
      label: "Failed",
      isNumber: true,
      cell: (lane) => (lane.failures > 0 ? <Badge tone="warning">{formatWhole(lane.failures)}</Badge> : "0"),
    },
  ];
  return (
    <Panel title="Lanes">
      <DataTable
        caption="Lanes"
        columns={columns}
        rows={lanes}
        rowKey={(lane) => lane.name}
        empty={<EmptyState title="No lane works">Forecasts begin when the first lane is warm.</EmptyState>}
      />
      {lanes_lost.length > 0 && (
        <>
          <h3>Lost since this version began to serve</h3>
          <ul class="wrap-anywhere">
            {lanes_lost.map((reason, index) => (
              <li key={index}>{reason}</li>
            ))}
          </ul>
        </>
      )}
      <Explained terms={TERMS} />
    </Panel>
  );
}

function Busy({ share }: { share: number | null }) {
  return (
    <span class="with-bar">
      <span class="bar-number">{formatPart(share)}</span>
      <Bar share={share ?? 0} tone={share !== null && share > 0.9 ? "warning" : "info"} />
    </span>
  );
}

function describeDetails(lane: LaneStatus): string {
  return Object.entries(lane.details)
    .map(([name, value]) => `${name}: ${String(value)}`)
    .join("\n");
}
