/** What the reader does with a server: choose what is shown, compare, copy. */
import { useState } from "preact/hooks";
import type { TimeRange } from "../../chart/spec";
import { formatTime } from "../../format/times";
import { updateQuery } from "../../routing";
import { Button, Field } from "../../ui/basics";
import { Choice } from "../../ui/choice";
import { copyText, fileName, saveText } from "./clipboard";
import type { TableSource } from "./columns";
import { writeCsv } from "./csv";

/** In the address: no past forecast is compared. Without a value, that of yesterday is. */
export const NO_PAST = "none";

export function TargetChoice(props: { targets: readonly string[]; target: string }) {
  return (
    <Field label="Target">
      <Choice
        value={props.target}
        all="All targets"
        choices={props.targets}
        onChange={(target) => updateQuery({ target })}
      />
    </Field>
  );
}

export function PastChoice(props: { origins: readonly number[]; origin: number | null; now: number }) {
  const { origins, origin, now } = props;
  const choose = (value: string) => updateQuery({ past: value });
  return (
    <Field label="Compare with the forecast of">
      <select
        value={origin === null ? NO_PAST : String(origin)}
        disabled={origins.length === 0}
        onChange={(event) => choose(event.currentTarget.value)}
      >
        <option value={NO_PAST}>{origins.length === 0 ? "none is kept yet" : "none"}</option>
        {[...origins].reverse().map((each) => (
          <option key={each} value={String(each)}>
            {formatTime(each, now)}
          </option>
        ))}
      </select>
    </Field>
  );
}

export function CopyButtons(props: { source: TableSource | null; range: TimeRange | null; target: string }) {
  const [note, setNote] = useState("");
  const copyCsv = async () => {
    if (props.source === null) return;
    const text = writeCsv(props.source, props.range);
    if (await copyText(text)) return setNote("Copied as CSV");
    saveText(text, fileName(props.source.server, props.target), "text/csv");
    setNote("Saved as a file: the browser allows no copy here");
  };
  const copyLink = async () => {
    setNote((await copyText(location.href)) ? "Link copied" : "Copy the link from the address bar");
  };
  const stretch = props.range === null ? "" : ", of the stretch of time that is shown";
  return (
    <>
      <Button
        onClick={() => void copyCsv()}
        disabled={props.source === null}
        title={`History and forecast as comma-separated values${stretch}`}
      >
        Copy as CSV
      </Button>
      <Button onClick={() => void copyLink()} title="A link that opens this view again">
        Copy link
      </Button>
      <span class="soft" role="status">
        {note}
      </span>
    </>
  );
}
