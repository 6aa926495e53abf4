/** Keys that move in a list: j and k from anywhere in the view, arrows and the rest where the list has the focus. */
import { useListedKeys, useShortcut } from "./keys";

export interface ListKeys {
  count: number;
  /** The chosen row; -1: none yet. */
  index: number;
  /** How many rows Page Up and Page Down move. */
  pageRows?: number;
  onMove: (index: number) => void;
  onOpen: (index: number) => void;
}

/** The row that a key leads to; null if it is no key of lists, or the list is empty. */
export function moveIndex(key: string, index: number, count: number, pageRows = 10): number | null {
  if (count === 0) return null;
  const last = count - 1;
  const targets: Record<string, number> = {
    j: index + 1,
    ArrowDown: index + 1,
    k: index < 0 ? last : index - 1,
    ArrowUp: index < 0 ? last : index - 1,
    PageDown: Math.max(0, index) + pageRows,
    PageUp: index - pageRows,
    Home: 0,
    End: last,
  };
  const target = targets[key];
  return target === undefined ? null : Math.min(last, Math.max(0, target));
}

/** Move in a list by keys; returns what the element of the list does with `onKeyDown`. */
export function useListKeys(list: ListKeys): (event: KeyboardEvent) => void {
  const move = (key: string): boolean => {
    const next = moveIndex(key, list.index, list.count, list.pageRows);
    if (next !== null) list.onMove(next);
    return next !== null;
  };
  const open = () => {
    if (list.index >= 0 && list.index < list.count) list.onOpen(list.index);
  };
  useListedKeys("Enter", "open what is chosen in the list");
  useShortcut("j", "next in the list", () => move("j"));
  useShortcut("k", "previous in the list", () => move("k"));
  return (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isOwn = event.target === event.currentTarget || !(event.target as Element).matches("a, button, input, select");
    if (event.key === "Enter" && isOwn) open();
    else if (event.key.length === 1 || !move(event.key)) return;
    event.preventDefault();
  };
}
