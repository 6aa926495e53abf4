/** What came in: samples and rows with what became of them, and what other agents sent. */
import { formatCount } from "../../format/names";
import { formatWhole } from "../../format/values";
import { EmptyState, Panel } from "../../ui/basics";
import { Explained } from "../../ui/explained";
import { DataTable, type Column } from "../../ui/table";
import type { Counts } from "../../wire/status";
import { formatRate } from "./amounts";
import type { Change, Poll } from "./polls";
import { addUp } from "./problems";
import { explain, explainRefusal, ROW_ENDS, type Meaning } from "./reasons";

interface Count {
  key: string;
  meaning: Meaning;
  total: number;
  rate: number | null;
}

const COUNT_COLUMNS: Column<Count>[] = [
  { key: "words", label: "Result", cell: ({ meaning }) => <Words meaning={meaning} /> },
  { key: "rate", label: "Last minute", isNumber: true, cell: ({ rate }) => formatRate(rate) },
  { key: "total", label: "Since start", isNumber: true, cell: ({ total }) => formatWhole(total) },
];

/** A meaning with what to do below it. */
function Words({ meaning }: { meaning: Meaning }) {
  return (
    <>
      {meaning.words}
      {meaning.hint !== "" && <small class="hint">{meaning.hint}</small>}
    </>
  );
}

export function SamplesPanel({ change }: { change: Change }) {
  const { samples, rows } = change.now.status;
  const accepted: Count = {
    key: "accepted",
    meaning: { words: "Accepted", hint: "" },
    total: samples.accepted,
    rate: change.rate((poll) => poll.status.samples.accepted),
  };
  const refused = [
    ...listCounts(samples.rejected, change, (poll) => poll.status.samples.rejected, "Rejected"),
    ...listCounts(samples.refused_frames, change, (poll) => poll.status.samples.refused_frames, "Whole body refused"),
  ];
  const ends = Object.entries(rows)
    .filter(([end, count]) => count > 0 || ["closed", "delivered", "failed"].includes(end))
    .map(([end, total]): Count => {
      return { key: end, meaning: explain(ROW_ENDS, end), total, rate: change.rate((poll) => poll.status.rows[end]) };
    });
  return (
    <Panel title="Samples and rows">
      <DataTable caption="Samples by result" columns={COUNT_COLUMNS} rows={[accepted, ...refused]} rowKey={({ key }) => key} />
      {samples.ignored_features > 0 && (
        <p class="soft">{formatCount(samples.ignored_features, "value")} of features that the model does not know were ignored.</p>
      )}
      <h3>Rows by their end</h3>
      <DataTable caption="Rows by their end" columns={COUNT_COLUMNS} rows={ends} rowKey={({ key }) => key} />
      <Explained
        terms={[
          ["Sample", "What one server reports at one time."],
          ["Row", "The features of one server in one step. Each row that is due ends as exactly one of delivered, superseded, failed, forgotten."],
        ]}
      />
    </Panel>
  );
}

function listCounts(counts: Counts, change: Change, read: (poll: Poll) => Counts | undefined, prefix: string): Count[] {
  return Object.entries(counts).map(([code, total]) => {
    const { words, hint } = explainRefusal(code);
    const meaning = { words: `${prefix}: ${words.toLowerCase()}`, hint };
    return { key: `${prefix} ${code}`, meaning, total, rate: change.rate((poll) => read(poll)?.[code]) };
  });
}

/** What other agents sent, by protocol; nothing if none did. */
export function AgentsPanel({ change }: { change: Change }) {
  const { agents } = change.now.status;
  const names = Object.keys(agents.protocols);
  if (names.length === 0) {
    return (
      <Panel title="Agents">
        <EmptyState title="No other agent has sent anything">
          <p>
            Prometheus, Telegraf, OpenTelemetry, collectd, netdata, glances and PCP push unchanged; docs/agents.md has the
            settings of each.
          </p>
        </EmptyState>
      </Panel>
    );
  }
  return (
    <Panel title="Agents">
      <dl class="facts">
        <dt>Series</dt>
        <dd>
          {formatWhole(agents.series)} mapped, of at most {formatWhole(agents.max_series)}
        </dd>
        <dt>Points of open rows</dt>
        <dd>{formatWhole(agents.points)}</dd>
        <dt>Rows written</dt>
        <dd>{formatWhole(agents.rows)}</dd>
      </dl>
      {names.map((name) => (
        <Protocol key={name} name={name} change={change} />
      ))}
      <Explained
        terms={[
          ["Series", "The values of one metric with one set of labels, as an agent sends them. Rules map series to features of servers."],
          ["Unmapped", "A series that no rule uses. streamd mapping check on a capture says what becomes of each, and why."],
        ]}
      />
    </Panel>
  );
}

function Protocol({ name, change }: { name: string; change: Change }) {
  const counts = change.now.status.agents.protocols[name];
  if (counts === undefined) return null;
  const taken = change.rate((poll) => poll.status.agents.protocols[name]?.taken);
  const rows: Count[] = [
    { key: "taken", meaning: { words: "Taken", hint: "" }, total: counts.taken, rate: taken },
    ...listCounts(counts.ignored, change, (poll) => poll.status.agents.protocols[name]?.ignored, "Ignored"),
    ...listCounts(counts.rejected, change, (poll) => poll.status.agents.protocols[name]?.rejected, "Rejected"),
    ...listCounts(counts.skipped, change, (poll) => poll.status.agents.protocols[name]?.skipped, "Skipped"),
    ...listCounts(counts.refused, change, (poll) => poll.status.agents.protocols[name]?.refused, "Whole body refused"),
  ];
  const lost = addUp(counts.ignored) + addUp(counts.rejected);
  return (
    <>
      <h3>
        {name}: {formatCount(counts.bodies, "body", "bodies")}
        {counts.taken === 0 && lost > 0 && ", no point is used"}
      </h3>
      <DataTable caption={`Points by ${name}`} columns={COUNT_COLUMNS} rows={rows} rowKey={({ key }) => key} />
    </>
  );
}
