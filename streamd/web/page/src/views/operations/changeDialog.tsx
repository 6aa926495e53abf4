/** The dialog before a change of the versions: its consequence, a reason, progress, and the daemon's answer. */
import { useEffect, useRef, useState } from "preact/hooks";
import { formatDuration } from "../../format/times";
import { Button, Field, Segmented } from "../../ui/basics";
import { Dialog } from "../../ui/dialog";
import { AdminNote, Refusal } from "../../ui/rights";
import { asWireError, deleteJson, postJson, type WireError } from "../../wire/api";
import type { Engines, Status } from "../../wire/status";
import { formatPart } from "./amounts";
import { describeCandidate, describePromotion, describeRollback } from "./versionWords";

export type VersionChange =
  | { kind: "promote"; version: string }
  | { kind: "rollback" }
  | { kind: "candidate"; version: string }
  | { kind: "end" };

interface Props {
  change: VersionChange;
  engines: Engines;
  status: Status;
  onClose: () => void;
  /** Called when the daemon has made the change. */
  onDone: () => void;
}

type Progress =
  | { state: "asking" }
  | { state: "working" }
  | { state: "done"; words: string }
  | { state: "failed"; error: WireError };

export function ChangeDialog(props: Props) {
  const { kind } = props.change;
  const [why, setWhy] = useState("");
  const [choice, setChoice] = useState<CandidateChoice>({ share: 1, isShadow: true });
  const [isReasonMissing, setReasonMissing] = useState(false);
  const [progress, setProgress] = useState<Progress>({ state: "asking" });
  const needsReason = kind === "promote" || kind === "rollback";

  const submit = async (event: Event) => {
    event.preventDefault();
    if (needsReason && why.trim() === "") return setReasonMissing(true);
    setProgress({ state: "working" });
    try {
      const words = await makeChange(props.change, why.trim(), choice);
      setProgress({ state: "done", words });
      props.onDone();
    } catch (error) {
      setProgress({ state: "failed", error: asWireError(error) });
    }
  };

  if (progress.state === "done") {
    return (
      <Dialog title={titleOf(props.change)} onClose={props.onClose}>
        <Done words={progress.words} onClose={props.onClose} />
      </Dialog>
    );
  }
  return (
    <Dialog title={titleOf(props.change)} onClose={props.onClose}>
      <form class="stack" onSubmit={(event) => void submit(event)}>
        {kind === "candidate" && <CandidateFields choice={choice} onChange={setChoice} />}
        <ul class="consequences">
          {describeChange(props, choice).map((sentence) => (
            <li key={sentence}>{sentence}</li>
          ))}
        </ul>
        {needsReason && (
          <Field label="Reason" hint="It goes into the record of promotions and into the log.">
            <textarea
              name="why"
              rows={2}
              value={why}
              aria-invalid={isReasonMissing}
              aria-describedby="reason-problem"
              onInput={(event) => {
                setWhy(event.currentTarget.value);
                setReasonMissing(false);
              }}
            />
          </Field>
        )}
        <p id="reason-problem" role="alert" class={isReasonMissing ? "error-note" : ""}>
          {isReasonMissing && "Give a reason: it is what others read when they wonder why."}
        </p>
        <AdminNote servers="all servers" why="changes of versions need a token with the scope admin.">
          {props.status.access.open && "Other calls need none here."}
        </AdminNote>
        <Outcome progress={progress} />
        <div class="dialog-actions">
          <Button onClick={props.onClose}>{progress.state === "working" ? "Close, it goes on" : "Cancel"}</Button>
          <button type="submit" class={`button button-${toneOf(kind)}`} disabled={progress.state === "working"}>
            {verbOf(kind)}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

interface CandidateChoice {
  share: number;
  isShadow: boolean;
}

function titleOf(change: VersionChange): string {
  if (change.kind === "promote") return `Promote ${change.version}`;
  if (change.kind === "candidate") return `Try ${change.version}`;
  return change.kind === "rollback" ? "Roll back" : "End the candidate";
}

function verbOf(kind: VersionChange["kind"]): string {
  return { promote: "Promote", rollback: "Roll back", candidate: "Start", end: "End it" }[kind];
}

function toneOf(kind: VersionChange["kind"]): string {
  return kind === "rollback" || kind === "end" ? "danger" : "primary";
}

function describeChange({ change, engines, status }: Props, choice: CandidateChoice): string[] {
  if (change.kind === "rollback") return describeRollback(engines, status);
  if (change.kind === "candidate") return describeCandidate(change.version, choice.share, choice.isShadow, status);
  if (change.kind === "end") {
    const after = status.candidate?.shadow === false ? "forecasts all servers again" : "goes on as before";
    return [`${engines.serving} ${after}.`, "The scores of the candidate are dropped, and with them its comparison."];
  }
  const version = engines.versions.find((each) => each.version === change.version);
  if (version === undefined) return [`${change.version} is no longer in the repository.`];
  return describePromotion(version, engines, status);
}

/** Make a change; returns the result in words. Throws `WireError`. */
async function makeChange(change: VersionChange, why: string, choice: CandidateChoice): Promise<string> {
  if (change.kind === "end") {
    const { ended } = await deleteJson<{ ended: string | null }>("v1/engines/candidate");
    return ended === null ? "There was no candidate any more." : `${ended} is no candidate any more.`;
  }
  if (change.kind === "candidate") {
    await postJson("v1/engines/candidate", { version: change.version, share: choice.share, shadow: choice.isShadow });
    return `${change.version} is the candidate now.`;
  }
  const body = change.kind === "promote" ? { version: change.version, why } : { why };
  const answer = await postJson<{ engine: string; before: string; seconds: number }>(`v1/engines/${change.kind}`, body);
  const duration = answer.seconds < 1 ? "less than a second" : formatDuration(answer.seconds);
  return `${answer.engine} serves now, in place of ${answer.before}. It took ${duration}.`;
}

function CandidateFields(props: { choice: CandidateChoice; onChange: (choice: CandidateChoice) => void }) {
  const { choice, onChange } = props;
  return (
    <>
      <Segmented
        label="Kind of candidate"
        value={choice.isShadow ? "shadow" : "canary"}
        choices={[
          { value: "shadow", label: "Shadow: only scored" },
          { value: "canary", label: "Canary: delivered" },
        ]}
        onChange={(kind) => onChange({ share: kind === "shadow" ? 1 : 0.1, isShadow: kind === "shadow" })}
      />
      <Field label={`Share of the servers: ${formatPart(choice.share)}`}>
        <input
          type="range"
          min={5}
          max={100}
          step={5}
          value={choice.share * 100}
          onInput={(event) => onChange({ ...choice, share: Number(event.currentTarget.value) / 100 })}
        />
      </Field>
    </>
  );
}

function Outcome({ progress }: { progress: Progress }) {
  if (progress.state === "working") return <p role="status" class="working">The daemon makes the change; forecasts go on …</p>;
  return <Refusal error={progress.state === "failed" ? progress.error : null} />;
}

function Done({ words, onClose }: { words: string; onClose: () => void }) {
  const result = useRef<HTMLParagraphElement>(null);
  useEffect(() => result.current?.focus(), []);
  return (
    <>
      <p role="status" tabIndex={-1} ref={result}>
        {words}
      </p>
      <div class="dialog-actions">
        <Button tone="primary" onClick={onClose}>
          Close
        </Button>
      </div>
    </>
  );
}
