/** Names of the daemon as people read them. */
import { formatWhole } from "./values";

/**
 * A version with the time in its name in the reader's zone, without seconds.
 *
 * At UTC+1, `patch_tensorrt_20261129_232000` is `patch_tensorrt, 30 Nov 00:20`: the name has the time in UTC.
 */
export function formatVersion(version: string): string {
  const parts = /^(.+)_(\d{4})(\d{2})(\d{2})_(\d{2})(\d{2})(\d{2})$/.exec(version);
  if (parts === null) return version;
  const [, name, year, month, day, hours, minutes, seconds] = parts;
  const made = new Date(`${year}-${month}-${day}T${hours}:${minutes}:${seconds}Z`);
  if (Number.isNaN(made.getTime())) return version;
  const clock = made.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return `${name}, ${made.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${clock}`;
}

/** One or several, such as `1 server` and `1,204 servers`. */
export function formatCount(count: number, one: string, several: string = `${one}s`): string {
  return `${formatWhole(count)} ${count === 1 ? one : several}`;
}

/** What is not seen, or changes how the text around it is read; other spaces than the usual one look like it. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\u115f\u1160\u2800\u3164\uffa0]|(?! )\p{Zs}/gu;
/** Spaces that a reader would overlook: at an end, or behind another one. */
const OVERLOOKED_SPACE = /^ +| +$| {2,}/g;

/** The name of a server so that all of it is seen: who sends samples chooses it, and it may have any character. */
export function showName(name: string): string {
  return name
    .replace(OVERLOOKED_SPACE, (spaces) => "␣".repeat(spaces.length))
    .replace(UNSEEN, (character) => `\\u${(character.codePointAt(0) ?? 0).toString(16).padStart(4, "0")}`);
}

/** A glob that chooses the server of this name and no other: a name such as `*` would be read as a glob. */
export function globOfName(name: string): string {
  return name.replace(/[[*?]/g, "[$&]");
}
