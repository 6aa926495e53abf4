/** Small parts that every view uses. */
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import type { WireError } from "../wire/api";
import { formatAge, formatFullTime, formatTime, now } from "../format/times";

export type Tone = "neutral" | "good" | "info" | "warning" | "critical" | "muted";

export function Panel(props: { title: string; actions?: ComponentChildren; children: ComponentChildren; id?: string }) {
  return (
    <section class="panel" aria-label={props.title} id={props.id}>
      <header class="panel-head">
        <h2>{props.title}</h2>
        {props.actions !== undefined && <div class="panel-actions">{props.actions}</div>}
      </header>
      {props.children}
    </section>
  );
}

export function Badge(props: { tone?: Tone; title?: string; children: ComponentChildren }) {
  return (
    <span class={`badge badge-${props.tone ?? "neutral"}`} title={props.title}>
      {props.children}
    </span>
  );
}

export function Stat(props: { label: string; value: ComponentChildren; note?: ComponentChildren; tone?: Tone }) {
  return (
    <div class={`stat stat-${props.tone ?? "neutral"}`}>
      <dt>{props.label}</dt>
      <dd>
        {props.value}
        {props.note !== undefined && <small>{props.note}</small>}
      </dd>
    </div>
  );
}

export function EmptyState(props: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <strong>{props.title}</strong>
      {props.children}
    </div>
  );
}

export function ErrorNote(props: { error: WireError; onRetry?: () => void }) {
  return (
    <p class="error-note" role="alert">
      {props.error.message}
      {props.onRetry !== undefined && <Button onClick={props.onRetry}>Try again</Button>}
    </p>
  );
}

export function Loading(props: { what: string }) {
  return (
    <p class="loading" role="status">
      Loading {props.what} …
    </p>
  );
}

/** A time of day in the reader's zone; the full time is its title. */
export function Time(props: { at: number }) {
  return (
    <time dateTime={new Date(props.at * 1000).toISOString()} title={formatFullTime(props.at)}>
      {formatTime(props.at)}
    </time>
  );
}

/** How long ago a time was, or how far ahead it is. */
export function Age(props: { at: number }) {
  return <span title={formatFullTime(props.at)}>{formatAge(props.at, now.value)}</span>;
}

export function Button(props: {
  onClick: () => void;
  children: ComponentChildren;
  /** `quiet`: among text or in a row of a table. */
  tone?: "plain" | "primary" | "danger" | "quiet";
  disabled?: boolean;
  title?: string;
  /** What a screen reader says in place of the text, for example "End the silence of db-*". */
  label?: string;
}) {
  return (
    <button
      type="button"
      class={`button button-${props.tone ?? "plain"}`}
      onClick={props.onClick}
      disabled={props.disabled}
      title={props.title}
      aria-label={props.label}
    >
      {props.children}
    </button>
  );
}

/** A labelled input. */
export function Field(props: { label: string; children: ComponentChildren; hint?: string }) {
  return (
    <label class="field">
      <span>{props.label}</span>
      {props.children}
      {props.hint !== undefined && <small>{props.hint}</small>}
    </label>
  );
}

/** One of a few choices. */
export function Segmented<T extends string>(props: {
  label: string;
  value: T;
  choices: readonly { value: T; label: string }[];
  onChange: (value: T) => void;
}) {
  const name = useId(); // two groups with the same label would be one to the browser
  return (
    <div class="segmented" role="radiogroup" aria-label={props.label}>
      {props.choices.map(({ value, label }) => (
        <label key={value} class={value === props.value ? "is-chosen" : ""}>
          <input
            type="radio"
            name={name}
            checked={value === props.value}
            onChange={() => props.onChange(value)}
          />
          {label}
        </label>
      ))}
    </div>
  );
}
