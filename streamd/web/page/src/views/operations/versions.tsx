/** The versions: which serves, which is warm, which is a candidate and how it compares; and the changes of them. */
import { useEffect, useRef, useState } from "preact/hooks";
import { formatValue, round } from "../../format/values";
import { Badge, Button, ErrorNote, Loading, Panel, Time } from "../../ui/basics";
import { Explained } from "../../ui/explained";
import { useResource } from "../../ui/resource";
import { DataTable, type Column } from "../../ui/table";
import { getJson } from "../../wire/api";
import type { Engines, EngineVersion, Promotion, Status } from "../../wire/status";
import { formatPart } from "./amounts";
import { CandidateNote } from "./candidateNote";
import { ChangeDialog, type VersionChange } from "./changeDialog";
import { describeGate } from "./versionWords";

const TERMS = [
  ["Promotion, rollback", "The record that a version serves from now on, also after a restart; and undoing the last one."],
  ["Candidate", "A version that is tried beside the one that serves: as a shadow it is only scored, as a canary readers get its forecasts of some servers."],
  ["Loss", "The pinball loss, divided by the deviation of the series: smaller is better. Live, it is measured on this fleet; in training, on other fleets."],
  ["Gate", "The check that a lower precision must pass against fp32 before it may serve."],
] as const;

const EVERY_SECONDS = 10;

export function VersionsPanel({ status, onChanged }: { status: Status; onChanged: () => void }) {
  const { data: engines, error, reload } = useResource(readEngines, [], EVERY_SECONDS);
  useEffect(reload, [status.engine, status.candidate?.version]); // also changes that others make
  const [change, setChange] = useState<VersionChange | null>(null);
  const close = () => setChange(null);
  // A token that is given in the midst of a change empties the table for a moment, and must not close the dialog.
  const newest = useRef(engines);
  newest.current = engines ?? newest.current;
  const finish = () => {
    reload();
    onChanged();
  };
  return (
    <Panel
      title="Versions"
      actions={engines !== undefined && <PanelActions engines={engines} status={status} onChange={setChange} />}
    >
      {error !== undefined && <ErrorNote error={error} onRetry={reload} />}
      {engines === undefined && error === undefined && <Loading what="the versions" />}
      {status.reload?.state === "loading" && change === null && (
        <p role="status">
          <Badge tone="info">{status.reload.version} is being loaded …</Badge>
        </p>
      )}
      {engines !== undefined && (
        <>
          {engines.problem !== null && <p class="error-note">{engines.problem}</p>}
          {engines.pinned && <p class="soft">The settings fix the version that serves, so promotions and rollbacks are refused.</p>}
          <CandidateNote status={status} />
          <div class="versions-table">
            <DataTable
              caption="Versions"
              columns={versionColumns({ engines, status, onChange: setChange })}
              rows={sortVersions(engines)}
              rowKey={(row) => row.version}
            />
          </div>
          <History history={engines.history} />
        </>
      )}
      {change !== null && newest.current !== undefined && (
        <ChangeDialog change={change} engines={newest.current} status={status} onClose={close} onDone={finish} />
      )}
      <Explained terms={TERMS} />
    </Panel>
  );
}

/** What serves, then the candidate, then what a rollback returns to, then the others as they came. */
function sortVersions({ versions, serving, candidate, previous }: Engines): EngineVersion[] {
  const place = ({ version }: EngineVersion) => [serving, candidate, previous].indexOf(version) >>> 0;
  return [...versions].sort((first, second) => place(first) - place(second));
}

function readEngines(signal: AbortSignal): Promise<Engines> {
  return getJson<Engines>("v1/engines", {}, signal);
}

interface ActionsProps {
  engines: Engines;
  status: Status;
  onChange: (change: VersionChange) => void;
}

function PanelActions({ engines, status, onChange }: ActionsProps) {
  return (
    <>
      {status.candidate !== null && <Button onClick={() => onChange({ kind: "end" })}>End the candidate …</Button>}
      {engines.previous !== null && !engines.pinned && (
        <Button onClick={() => onChange({ kind: "rollback" })}>Roll back …</Button>
      )}
    </>
  );
}

function versionColumns({ engines, status, onChange }: ActionsProps): Column<EngineVersion>[] {
  return [
    {
      key: "version",
      label: "Version",
      cell: (row) => (
        <div class="version-name">
          <span class="mono">{row.version}</span>
          <Roles version={row} status={status} engines={engines} />
          {row.problem !== null && <small class="hint">{row.problem}</small>}
        </div>
      ),
    },
    { key: "network", label: "Network", cell: (row) => row.architecture?.replaceAll("_", " ") ?? "–" },
    {
      key: "live",
      label: "Loss, live",
      isNumber: true,
      cell: (row) => <Loss value={status.accuracy.versions[row.version]?.loss} />,
    },
    { key: "training", label: "in training", isNumber: true, cell: (row) => <Loss value={row.training_loss} /> },
    {
      key: "gate",
      label: "Precisions",
      cell: (row) => <span title={`Gate: ${describeGate(row.gate)}`}>{row.precisions.join(", ") || "–"}</span>,
    },
    { key: "size", label: "Size", isNumber: true, cell: (row) => formatValue(row.size_bytes, "bytes") },
    { key: "created", label: "Made", cell: (row) => (row.created_at === null ? "–" : <Time at={row.created_at} />) },
    { key: "actions", label: "", cell: (row) => <RowActions version={row} engines={engines} onChange={onChange} /> },
  ];
}

function Loss({ value }: { value: number | null | undefined }) {
  return <>{value === null || value === undefined ? "–" : round(value)}</>;
}

function Roles({ version, status, engines }: { version: EngineVersion; status: Status; engines: Engines }) {
  const { candidate, previous } = status;
  const name = version.version;
  return (
    <span class="cluster">
      {name === engines.serving && <Badge tone="good">serves</Badge>}
      {name === candidate?.version && (
        <Badge tone="info">
          {candidate.shadow ? "shadow" : "canary"} on {formatPart(candidate.share)}
        </Badge>
      )}
      {name === previous?.engine && <Badge tone="neutral" title="A rollback to it takes less than a second">warm</Badge>}
      {version.problem !== null && <Badge tone="critical">cannot serve</Badge>}
      {version.is_default && <Badge tone="muted" title="It serves if none is promoted">default</Badge>}
    </span>
  );
}

function RowActions({ version, engines, onChange }: Omit<ActionsProps, "status"> & { version: EngineVersion }) {
  if (version.version === engines.serving || version.problem !== null) return null;
  const name = version.version;
  return (
    <span class="cluster row-actions">
      {name !== engines.candidate && (
        <Button onClick={() => onChange({ kind: "candidate", version: name })} label={`Try ${name}`}>
          Try …
        </Button>
      )}
      {!engines.pinned && (
        <Button onClick={() => onChange({ kind: "promote", version: name })} label={`Promote ${name}`}>
          Promote …
        </Button>
      )}
    </span>
  );
}

const HISTORY_COLUMNS: Column<Promotion>[] = [
  { key: "when", label: "When", cell: ({ when }) => <Time at={when} /> },
  { key: "kind", label: "Change", cell: ({ kind }) => (kind === "rollback" ? "rollback" : "promotion") },
  { key: "after", label: "To", cell: ({ after }) => <span class="mono">{after ?? "the default"}</span> },
  { key: "before", label: "From", cell: ({ before }) => <span class="mono">{before ?? "the default"}</span> },
  { key: "who", label: "Who", cell: ({ who }) => who || "–" },
  { key: "why", label: "Why", cell: ({ why }) => why || "–" },
];

function History({ history }: { history: Promotion[] }) {
  if (history.length === 0) return <p class="soft">No version was promoted yet: the default serves.</p>;
  return (
    <details class="history">
      <summary>History of promotions ({history.length})</summary>
      <DataTable
        caption="History of promotions"
        columns={HISTORY_COLUMNS}
        rows={history}
        rowKey={({ when, after }) => `${when} ${after}`}
      />
    </details>
  );
}
