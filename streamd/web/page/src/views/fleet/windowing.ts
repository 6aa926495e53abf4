/** Which rows of a long list are in the document, and which part of it the daemon is asked for. */

/** Rows from `first` up to, but without, `end`. */
export interface RowRange {
  first: number;
  end: number;
}

const ALIGNMENT = 10;
const MOST_ROWS = 500;

/** The rows that are seen, with `overscan` more on both sides. Heights are in pixels. */
export function seenRange(
  scrollTop: number,
  height: number,
  rowHeight: number,
  count: number,
  overscan: number,
): RowRange {
  const first = Math.min(Math.floor(scrollTop / rowHeight) - overscan, count - 1);
  const end = Math.ceil((scrollTop + height) / rowHeight) + overscan;
  return { first: Math.max(0, first), end: Math.max(0, Math.min(count, end)) };
}

/** The page that covers a range: its ends are rounded outwards, so that small steps of the reader ask for nothing new. */
export function pageOf(range: RowRange): { offset: number; limit: number } {
  const offset = Math.floor(range.first / ALIGNMENT) * ALIGNMENT;
  const end = Math.ceil(range.end / ALIGNMENT) * ALIGNMENT;
  return { offset, limit: Math.min(MOST_ROWS, Math.max(ALIGNMENT, end - offset)) };
}

/** The position of the scroll at which a row is wholly seen, moved as little as possible. */
export function scrollTo(index: number, scrollTop: number, height: number, rowHeight: number): number {
  const top = index * rowHeight;
  if (top < scrollTop) return top;
  return Math.max(scrollTop, top + rowHeight - height);
}
