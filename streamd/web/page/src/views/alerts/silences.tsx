/** The silences that hold, and the way to end one. */
import { useState } from "preact/hooks";
import { formatCount } from "../../format/names";
import { now } from "../../format/times";
import { Age, Button, EmptyState, Time } from "../../ui/basics";
import { Dialog } from "../../ui/dialog";
import { Refusal } from "../../ui/rights";
import { asWireError, deleteJson, type WireError } from "../../wire/api";
import type { Alert, Silence } from "../../wire/types";
import { type CardColumn, CardTable } from "./cards";
import { SilencingNote } from "./rights";
import { countChosen } from "./reach";
import { describeChoice, describeServers } from "./words";

export function Silences(props: {
  silences: readonly Silence[];
  active: Iterable<Alert>;
  isOpen: boolean;
  onEnded: () => void;
}) {
  const [ending, setEnding] = useState<Silence | null>(null);
  const columns: readonly CardColumn<Silence>[] = [
    { key: "server", label: "Servers", cell: ({ servers }) => <strong>{describeServers(servers)}</strong> },
    { key: "rules", label: "Rules", cell: ({ rules }) => (rules === null ? "all rules" : rules.join(", ")) },
    { key: "what", label: "Why", cell: ({ why, who }) => <Why why={why} who={who} /> },
    { key: "began", label: "Began", cell: ({ starts_at }) => <Age at={starts_at} /> },
    { key: "ends", label: "Ends", cell: ({ ends_at }) => <Ends at={ends_at} /> },
    {
      key: "action",
      label: "End",
      isLabelHidden: true,
      cell: (silence) => (
        <Button tone="quiet" label={`End the silence of ${describeChoice(silence)}`} onClick={() => setEnding(silence)}>
          End
        </Button>
      ),
    },
  ];
  return (
    <>
      {props.silences.length === 0 ? (
        <EmptyState title="Nothing is silenced">
          <p>During planned work, a silence keeps alerts from your receivers for a while. They still show here.</p>
        </EmptyState>
      ) : (
        <CardTable caption="Silences" columns={columns} rows={props.silences} rowKey={({ id }) => id} />
      )}
      {ending !== null && (
        <EndDialog
          silence={ending}
          active={props.active}
          isOpen={props.isOpen}
          onClose={() => setEnding(null)}
          onEnded={() => {
            setEnding(null);
            props.onEnded();
          }}
        />
      )}
    </>
  );
}

function Why({ why, who }: { why: string; who: string }) {
  return (
    <>
      <span class="wrap-anywhere">{why}</span>
      <small class="soft alerts-note">{who}</small>
    </>
  );
}

function Ends({ at }: { at: number }) {
  return (
    <span class="alerts-pair">
      <span>
        <Age at={at} />
      </span>
      <small class="soft">
        <Time at={at} />
      </small>
    </span>
  );
}

function EndDialog(props: {
  silence: Silence;
  active: Iterable<Alert>;
  isOpen: boolean;
  onClose: () => void;
  onEnded: () => void;
}) {
  const [error, setError] = useState<WireError | null>(null);
  const [isWorking, setWorking] = useState(false);
  const { silence } = props;
  const { firing } = countChosen(props.active, silence, now.peek());
  const end = async () => {
    setWorking(true);
    try {
      await deleteJson(`v1/silences/${encodeURIComponent(silence.id)}`);
      props.onEnded();
    } catch (thrown) {
      setWorking(false);
      setError(asWireError(thrown));
    }
  };
  return (
    <Dialog title="End this silence" onClose={props.onClose}>
      <div class="stack">
        <p>
          <strong>{describeChoice(silence)}</strong>, silenced by {silence.who}: {silence.why}
        </p>
        <p>
          {firing === 0
            ? "None of its alerts fires now. Alerts that begin from now on are sent to the receivers."
            : `${formatCount(firing, "alert of it fires", "alerts of it fire")} now. Receivers are notified at once of those that began while it held, unless another silence holds.`}
        </p>
        <SilencingNote isOpen={props.isOpen} />
        <Refusal error={error} />
        <div class="dialog-actions">
          <Button onClick={props.onClose}>Cancel</Button>
          <Button tone="danger" disabled={isWorking} onClick={() => void end()}>
            End the silence
          </Button>
        </div>
      </div>
    </Dialog>
  );
}
