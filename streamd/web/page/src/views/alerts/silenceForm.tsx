/** The fields of a silence: what it chooses, for how long, and why. */
import { globOfName } from "../../format/names";
import { now } from "../../format/times";
import { Field, Segmented } from "../../ui/basics";
import { Choice } from "../../ui/choice";
import type { AlertRule } from "../../wire/types";
import { splitNames } from "./names";
import { findEnd, findEndProblem, type Span, SPAN_LABELS, SPAN_SECONDS, SPANS, toLocalInput } from "./spans";

export interface SilenceForm {
  /** The name of one server as it is, which may have commas and spaces; null for what the reader writes. */
  server: string | null;
  /** What the reader writes: names and globs. */
  servers: string;
  /** Empty: all rules. */
  rule: string;
  span: Span;
  /** The end as `datetime-local` has it, for a custom span. */
  custom: string;
  why: string;
  who: string;
}

const CUSTOM_SECONDS = 7_200;

/** What the dialog begins with. */
export function startForm(server: string | null, rule: string): SilenceForm {
  const custom = toLocalInput(now.peek() + CUSTOM_SECONDS);
  return { server, servers: "", rule, span: "1h", custom, why: "", who: "" };
}

/** The servers and rules that a silence chooses, as the wire has them. */
export interface SilenceChoice {
  servers: string[];
  rules: string[] | null;
}

export function readChoice({ server, servers, rule }: SilenceForm): SilenceChoice {
  return {
    servers: server === null ? splitNames(servers) : [globOfName(server)],
    rules: rule === "" ? null : [rule],
  };
}

/** What is wrong with the form; null if nothing is. */
export function findProblem(form: SilenceForm, present: number): string | null {
  if (readChoice(form).servers.length === 0) return "Name at least one server; * is every server.";
  if (form.why.trim() === "") return "Give a reason.";
  return findEndProblem(findEnd(form.span, form.custom, present), present);
}

/** The body of the call. Spans are sent as spans: the reader's clock may be another one than that of the daemon. */
export function makeBody(form: SilenceForm, present: number): object {
  const seconds = SPAN_SECONDS[form.span];
  const duration = seconds === undefined ? { until: findEnd(form.span, form.custom, present) } : { seconds };
  const who = form.who.trim();
  return { ...readChoice(form), ...duration, why: form.why.trim(), ...(who === "" ? {} : { who }) };
}

export function SilenceFields(props: {
  form: SilenceForm;
  rules: readonly AlertRule[];
  isReasonMissing: boolean;
  onChange: (change: Partial<SilenceForm>) => void;
}) {
  const { form, onChange } = props;
  return (
    <>
      {form.server === null && (
        <Field label="Servers" hint="Names or globs such as web-*, separated by spaces. * is every server.">
          <input
            name="servers"
            value={form.servers}
            autofocus
            autoComplete="off"
            spellcheck={false}
            onInput={(event) => onChange({ servers: event.currentTarget.value })}
          />
        </Field>
      )}
      <Field label="Rule">
        <Choice
          value={form.rule}
          all="All rules"
          choices={props.rules.map(({ rule }) => rule)}
          onChange={(rule) => onChange({ rule })}
        />
      </Field>
      <SpanFields span={form.span} custom={form.custom} onChange={onChange} />
      <Field label="Reason" hint="Others read it when they wonder why they were not notified.">
        <textarea
          name="why"
          rows={2}
          autofocus={form.server !== null}
          maxLength={1_000}
          value={form.why}
          aria-invalid={props.isReasonMissing}
          onInput={(event) => onChange({ why: event.currentTarget.value })}
        />
      </Field>
      <Field label="Who" hint="By default the name of your token.">
        <input
          name="who"
          value={form.who}
          maxLength={200}
          autoComplete="name"
          onInput={(event) => onChange({ who: event.currentTarget.value })}
        />
      </Field>
    </>
  );
}

function SpanFields(props: { span: Span; custom: string; onChange: (change: Partial<SilenceForm>) => void }) {
  const { span, custom, onChange } = props;
  return (
    <div class="cluster">
      <Segmented
        label="For how long"
        value={span}
        choices={SPANS.map((value) => ({ value, label: SPAN_LABELS[value] }))}
        onChange={(value) => onChange({ span: value })}
      />
      {span === "custom" && (
        <input
          type="datetime-local"
          aria-label="End of the silence"
          value={custom}
          onInput={(event) => onChange({ custom: event.currentTarget.value })}
        />
      )}
    </div>
  );
}
