/** Keys of the whole page. A list, a view or the frame registers what it does; the help shows all that are registered. */
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

export interface Shortcut {
  /** One key (`/`), or two in a row with a space between (`g f`). */
  keys: string;
  /** What it does, as the help says it. */
  label: string;
  /** `null`: an element handles the keys itself while it has the focus; the help only lists them. */
  run: (() => void) | null;
}

const KEY = "streamd-keys-off";
const SEQUENCE_MS = 1_500;

/** The shortcuts that work now, in the order in which they were registered. */
export const shortcuts = signal<readonly Shortcut[]>([]);

/** Whether single keys do something; people who speak to their browser turn them off. */
export const areKeysOn = signal(readChoice());

/** Turn single keys on or off, on this device. */
export function setKeysOn(isOn: boolean): void {
  areKeysOn.value = isOn;
  try {
    if (isOn) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, "1");
  } catch {
    // a browser may forbid storage; the choice then lives as long as the page
  }
}

function readChoice(): boolean {
  try {
    return localStorage.getItem(KEY) === null;
  } catch {
    return true;
  }
}

/** Register a shortcut; returns a function that ends it. Of several with the same keys, the newest works. */
export function addShortcut(shortcut: Shortcut): () => void {
  shortcuts.value = [...shortcuts.peek(), shortcut];
  return () => (shortcuts.value = shortcuts.peek().filter((each) => each !== shortcut));
}

/** Have a shortcut while the component is there. */
export function useShortcut(keys: string, label: string, run: () => void): void {
  const latest = useRef(run);
  latest.current = run;
  useEffect(() => addShortcut({ keys, label, run: () => latest.current() }), [keys, label]);
}

/** List keys in the help that an element handles itself while it has the focus. */
export function useListedKeys(keys: string, label: string): void {
  useEffect(() => addShortcut({ keys, label, run: null }), [keys, label]);
}

/** Whether keys belong to the element that has the focus: the reader writes, or chooses there. */
export function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof Element)) return false;
  return target.closest("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]") !== null;
}

/** Finds the shortcut of a key, which may be the second of two. */
export class KeyReader {
  private first = "";
  private firstAt = 0;

  /** The shortcut that this key completes. `at` in milliseconds. */
  read(key: string, at: number, listed: readonly Shortcut[]): Shortcut | undefined {
    const known = listed.filter(({ run }) => run !== null);
    const sequence = this.first !== "" && at - this.firstAt <= SEQUENCE_MS ? `${this.first} ${key}` : "";
    this.first = "";
    const found = known.findLast((each) => each.keys === sequence) ?? known.findLast((each) => each.keys === key);
    if (found === undefined && known.some((each) => each.keys.startsWith(`${key} `))) {
      this.first = key;
      this.firstAt = at;
    }
    return found;
  }
}

/** Listen to the keys of the page; returns a function that ends it. */
export function listenToKeys(): () => void {
  const reader = new KeyReader();
  const listen = (event: KeyboardEvent) => {
    if (!areKeysOn.value || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.isComposing || isTyping(event.target) || document.querySelector("dialog[open]") !== null) return;
    const found = reader.read(event.key, event.timeStamp, shortcuts.value);
    if (found === undefined) return;
    event.preventDefault();
    found.run?.();
  };
  document.addEventListener("keydown", listen);
  return () => document.removeEventListener("keydown", listen);
}
