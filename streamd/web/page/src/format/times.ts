/** Times in the reader's zone, and spans of time in words. Times are epoch seconds. */
import { now } from "./clock";

export { now };

const DAY = 86_400;
const WEEKDAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
/** A time as close to the present as this is written as the present: clocks and the way to the daemon differ a little. */
const NOW_SECONDS = 1;

/** The reader's zone, such as `Europe/Berlin (UTC+1)`. */
export function zoneName(at: Date = new Date()): string {
  const name = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const offset = formatOffset(-at.getTimezoneOffset());
  return name === "UTC" ? name : `${name} (${offset})`;
}

/** An offset in minutes, such as `UTC+1` and `UTC+5:30`. */
export function formatOffset(minutes: number): string {
  const hours = Math.floor(Math.abs(minutes) / 60);
  const rest = Math.abs(minutes) % 60;
  if (minutes === 0) return "UTC";
  return `UTC${minutes < 0 ? "−" : "+"}${hours}${rest === 0 ? "" : `:${pad(rest)}`}`;
}

/** The time of day, with the day unless it is today: `14:05`, `Mon 14:05`, `3 Feb 14:05`, `3 Feb 2025 14:05`. */
export function formatTime(at: number, present: number = now.peek()): string {
  const date = new Date(at * 1000);
  // By hand: `toLocaleTimeString` takes 50 times as long, and a list of servers has hundreds of times.
  const clock = `${pad(date.getHours())}:${pad(date.getMinutes())}`;
  return isSameDay(at, present) ? clock : `${formatDay(at, present)} ${clock}`;
}

/** The day: `today`, `Mon`, `3 Feb`, `3 Feb 2025`; a weekday only where there is no doubt which one. */
export function formatDay(at: number, present: number = now.peek()): string {
  if (isSameDay(at, present)) return "today";
  const date = new Date(at * 1000);
  if (Math.abs(at - present) < 6 * DAY) return WEEKDAYS[date.getDay()] ?? "";
  const isSameYear = date.getFullYear() === new Date(present * 1000).getFullYear();
  return date.toLocaleDateString("en-GB", {
    day: "numeric",
    month: "short",
    ...(isSameYear ? {} : { year: "numeric" }),
  });
}

/** A whole time, for titles and copies: `Monday 3 February 2026, 14:05:09 UTC+1`. */
export function formatFullTime(at: number): string {
  const date = new Date(at * 1000);
  const day = date.toLocaleDateString("en-GB", { weekday: "long", day: "numeric", month: "long", year: "numeric" });
  return `${day}, ${date.toLocaleTimeString("en-GB")} ${formatOffset(-date.getTimezoneOffset())}`;
}

/** A span: `40 s`, `12 min`, `3 h 10 min`, `2 d 4 h`. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 24 * 60) return join(Math.floor(minutes / 60), "h", minutes % 60, "min");
  const hours = Math.round(minutes / 60);
  return join(Math.floor(hours / 24), "d", hours % 24, "h");
}

/** How long ago a time was, or how far ahead it is: `12 min ago`, `in 3 h`, `now`. */
export function formatAge(at: number, present: number = now.peek()): string {
  const seconds = present - at;
  if (Math.abs(seconds) < NOW_SECONDS) return "now";
  return seconds > 0 ? `${formatDuration(seconds)} ago` : `in ${formatDuration(-seconds)}`;
}

function join(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
}

function pad(part: number): string {
  return String(part).padStart(2, "0");
}

function isSameDay(one: number, other: number): boolean {
  return new Date(one * 1000).toDateString() === new Date(other * 1000).toDateString();
}
