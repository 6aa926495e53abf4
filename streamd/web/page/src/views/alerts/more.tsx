/** A long list in pieces: a table of thousands of rows would make the page slow. */
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { formatCount } from "../../format/names";
import { Button } from "../../ui/basics";

const PIECE = 100;

/** The first rows of a list, and the button for more of them. */
export function useMore<Row>(rows: readonly Row[], one: string): { shown: readonly Row[]; more: ComponentChildren } {
  const [count, setCount] = useState(PIECE);
  const left = rows.length - count;
  if (left <= 0) return { shown: rows, more: null };
  return {
    shown: rows.slice(0, count),
    more: (
      <p class="alerts-more soft">
        {formatCount(left, `more ${one}`)} {left === 1 ? "is" : "are"} not shown.{" "}
        <Button tone="quiet" onClick={() => setCount(count + PIECE)}>
          Show more
        </Button>
      </p>
    ),
  };
}
