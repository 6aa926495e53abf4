/** The dialog that begins a silence, and says what follows from it. */
import { useState } from "preact/hooks";
import { formatCount, showName } from "../../format/names";
import { formatDuration, formatTime, now } from "../../format/times";
import { Button } from "../../ui/basics";
import { Dialog } from "../../ui/dialog";
import { Refusal } from "../../ui/rights";
import { asWireError, postJson, type WireError } from "../../wire/api";
import type { Alert, AlertRule } from "../../wire/types";
import { countChosen } from "./reach";
import { SilencingNote } from "./rights";
import { findProblem, makeBody, readChoice, type SilenceChoice, SilenceFields, startForm } from "./silenceForm";
import { findEnd } from "./spans";

/** What the dialog begins with: one server, or null for those that the reader writes; an empty rule: all rules. */
export interface SilenceDraft {
  server: string | null;
  rule: string;
}

interface Props {
  draft: SilenceDraft;
  rules: readonly AlertRule[];
  active: readonly Alert[];
  isOpen: boolean;
  onClose: () => void;
  onBegun: () => void;
}

export function SilenceDialog(props: Props) {
  const { server, rule } = props.draft;
  const [form, setForm] = useState(() => startForm(server, rule));
  const [problem, setProblem] = useState<string | null>(null);
  const [error, setError] = useState<WireError | null>(null);
  const [isWorking, setWorking] = useState(false);

  const submit = async (event: Event) => {
    event.preventDefault();
    const present = Date.now() / 1000;
    const found = findProblem(form, present);
    setProblem(found);
    if (found !== null) return;
    setWorking(true);
    setError(null);
    try {
      await postJson("v1/silences", makeBody(form, present));
      props.onBegun();
    } catch (thrown) {
      setWorking(false);
      setError(asWireError(thrown));
    }
  };

  return (
    <Dialog title={server === null ? "Silence alerts" : `Silence ${showName(server)}`} onClose={props.onClose}>
      <form class="stack alerts-form" onSubmit={(event) => void submit(event)} noValidate>
        <SilenceFields
          form={form}
          rules={props.rules}
          isReasonMissing={problem !== null && form.why.trim() === ""}
          onChange={(change) => {
            setForm({ ...form, ...change });
            setProblem(null);
          }}
        />
        <Consequence choice={readChoice(form)} until={findEnd(form.span, form.custom, now.value)} active={props.active} />
        <p role="alert" class={problem === null ? "" : "error-note"}>
          {problem}
        </p>
        <SilencingNote isOpen={props.isOpen} />
        <Refusal error={error} />
        <div class="dialog-actions">
          <Button onClick={props.onClose}>Cancel</Button>
          <button type="submit" class="button button-primary" disabled={isWorking}>
            Silence
          </button>
        </div>
      </form>
    </Dialog>
  );
}

function Consequence(props: {
  choice: SilenceChoice;
  until: number | null;
  active: readonly Alert[];
}) {
  const present = now.value;
  const { firing, pending } = countChosen(props.active, props.choice, present);
  const end = props.until === null || props.until <= present ? null : props.until;
  return (
    <ul class="consequences">
      <li>
        {end === null
          ? "Receivers are not notified of alerts that begin before it ends."
          : `Until ${formatTime(end, present)}, in ${formatDuration(end - present)}, receivers are not notified of alerts that begin. What still fires then is sent.`}
      </li>
      <li>
        {firing === 0
          ? "None of these alerts fires now."
          : `${formatCount(firing, "of these alerts fires", "of these alerts fire")} now. Receivers that were notified of it keep it, and are notified when it ends.`}
        {pending > 0 && ` ${formatCount(pending, "more is", "more are")} pending.`}
      </li>
    </ul>
  );
}
