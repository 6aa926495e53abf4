/** The batches since start: why they have their sizes, how large they are, and what each size costs. */
import { formatCount } from "../../format/names";
import { formatWhole } from "../../format/values";
import { EmptyState, Panel } from "../../ui/basics";
import { Bar } from "../../ui/bar";
import { Explained } from "../../ui/explained";
import { DataTable, type Column } from "../../ui/table";
import type { BatchReasonStatus, Status } from "../../wire/status";
import { describeSize, formatDelay, formatPart } from "./amounts";
import { addUp } from "./problems";
import { BATCH_REASONS, explain } from "./reasons";

const TERMS = [
  ["Batch", "Windows that run together on a lane. The size is chosen each time, so that the last waiting window is finished soonest."],
  ["Bucket", "A batch size that is measured at start. Sizes in between cost what lies in between."],
  ["Queue delay", "How long the longest waiting window of a batch waited before the batch began."],
] as const;

type Reason = BatchReasonStatus & { reason: string };

export function BatchesPanel({ status }: { status: Status }) {
  const { by_reason, by_size } = status.batches;
  const all = addUp(by_size);
  const reasons = Object.entries(by_reason).map(([reason, counts]) => ({ reason, ...counts }));
  reasons.sort((first, second) => second.batches - first.batches);
  return (
    <Panel title="Batches">
      {all === 0 ? (
        <EmptyState title="No batch has run yet" />
      ) : (
        <>
          <DataTable
            caption="Batches by the reason for their size"
            columns={reasonColumns(all)}
            rows={reasons}
            rowKey={(row) => row.reason}
          />
          <div class="side-by-side">
            <Sizes bySize={by_size} all={all} />
            <Buckets bucketMs={status.bucket_ms ?? {}} />
          </div>
        </>
      )}
      <Explained terms={[...TERMS, ...reasons.map(({ reason }) => wordsAndHint(reason))]} />
    </Panel>
  );
}

function wordsAndHint(reason: string): readonly [string, string] {
  const { words, hint } = explain(BATCH_REASONS, reason);
  return [words, hint];
}

function reasonColumns(all: number): Column<Reason>[] {
  return [
    {
      key: "reason",
      label: "Why this size",
      cell: ({ reason }) => <span title={explain(BATCH_REASONS, reason).hint}>{explain(BATCH_REASONS, reason).words}</span>,
    },
    {
      key: "share",
      label: "Batches since start",
      cell: ({ batches }) => (
        <span class="with-bar" title={formatCount(batches, "batch", "batches")}>
          <span class="bar-number">{formatPart(batches / all)}</span>
          <Bar share={batches / all} />
        </span>
      ),
    },
    { key: "size", label: "Mean size", isNumber: true, cell: ({ windows, batches }) => (windows / batches).toFixed(1) },
    {
      key: "delay",
      label: "Mean delay",
      isNumber: true,
      cell: ({ queue_delay_seconds, batches }) => formatDelay(queue_delay_seconds / batches),
    },
  ];
}

function Sizes({ bySize, all }: { bySize: Record<string, number>; all: number }) {
  const bounds = Object.keys(bySize);
  return (
    <div>
      <h3>Sizes</h3>
      <table class="tight">
        <caption class="visually-hidden">Batches by size</caption>
        <thead>
          <tr>
            <th scope="col" class="number">Windows</th>
            <th scope="col">Batches</th>
          </tr>
        </thead>
        <tbody>
          {bounds.map((bound) => (
            <tr key={bound}>
              <th scope="row" class="number">{describeSize(bound)}</th>
              <td>
                <span class="with-bar">
                  <span class="bar-number">{formatWhole(bySize[bound] ?? 0)}</span>
                  <Bar share={(bySize[bound] ?? 0) / all} />
                </span>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Buckets({ bucketMs }: { bucketMs: Record<string, number> }) {
  const buckets = Object.entries(bucketMs).sort(([first], [second]) => Number(first) - Number(second));
  return (
    <div>
      <h3>Measured costs</h3>
      <table class="tight">
        <caption class="visually-hidden">Measured cost of each bucket</caption>
        <thead>
          <tr>
            <th scope="col" class="number">Bucket</th>
            <th scope="col" class="number">Batch</th>
            <th scope="col" class="number">Each window</th>
          </tr>
        </thead>
        <tbody>
          {buckets.map(([bucket, ms]) => (
            <tr key={bucket}>
              <th scope="row" class="number">{bucket}</th>
              <td class="number">{formatDelay(ms / 1000)}</td>
              <td class="number">{formatDelay(ms / 1000 / Number(bucket))}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
