/** How long a silence lasts: the choices of the dialog, and the time that a reader gives. Times are epoch seconds. */

export const SPANS = ["1h", "2h", "4h", "tomorrow", "custom"] as const;
export type Span = (typeof SPANS)[number];

export const SPAN_LABELS: Record<Span, string> = {
  "1h": "1 h",
  "2h": "2 h",
  "4h": "4 h",
  tomorrow: "Until tomorrow",
  custom: "Until a time",
};

/** The spans that begin now and last some hours. */
export const SPAN_SECONDS: Partial<Record<Span, number>> = { "1h": 3_600, "2h": 7_200, "4h": 14_400 };

/** When the working day begins, by which a silence "until tomorrow" has ended. */
const MORNING_HOUR = 8;
/** As the daemon has it. */
const MAX_DAYS = 30;
const DAY = 86_400;

/** The end of a silence that begins now; null for a custom one without a time. `custom` is of `datetime-local`. */
export function findEnd(span: Span, custom: string, present: number): number | null {
  const seconds = SPAN_SECONDS[span];
  if (seconds !== undefined) return present + seconds;
  if (span === "tomorrow") return nextMorning(present);
  const at = new Date(custom).getTime() / 1000;
  return Number.isFinite(at) ? at : null;
}

/** The next morning at 8, in the reader's zone: of the day after, also if it is night. */
export function nextMorning(present: number): number {
  const date = new Date(present * 1000);
  date.setDate(date.getDate() + 1);
  date.setHours(MORNING_HOUR, 0, 0, 0);
  return date.getTime() / 1000;
}

/** What is wrong with an end; null if nothing is. */
export function findEndProblem(end: number | null, present: number): string | null {
  if (end === null) return "Give the time at which the silence ends.";
  if (end <= present) return "That time is over. Give one that lies ahead.";
  return end - present > MAX_DAYS * DAY ? `A silence lasts at most ${MAX_DAYS} days.` : null;
}

/** A time as the value of a `datetime-local` input. */
export function toLocalInput(at: number): string {
  const date = new Date(at * 1000);
  const two = (value: number) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day}T${two(date.getHours())}:${two(date.getMinutes())}`;
}
