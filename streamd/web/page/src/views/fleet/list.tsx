/** The list: as a grid of the keyboard and of screen readers, with only the rows around the reader in the document. */
import { type ReadonlySignal, type Signal, untracked, useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { formatDuration } from "../../format/times";
import { useShortcut } from "../../ui/keys";
import { useListKeys } from "../../ui/listKeys";
import { useFleet } from "./context";
import { openRow } from "./opening";
import { Row, ROW_ID } from "./row";
import { scrollTo, seenRange, type RowRange } from "./windowing";

export const LIST_ID = "fleet-list";
const SPACER = "fleet-spacer";
const OVERSCAN = 6;
/** Rows of a desktop and of a phone, in rem: they grow with the reader's text. */
const ROW_REM = { wide: 3.3, narrow: 4.9 };
const narrow = window.matchMedia("(max-width: 760px)");

export function FleetList(props: { count: number; isGrouped: boolean; active: Signal<number> }) {
  const { count, active } = props;
  const { feed, target } = useFleet();
  const grid = useRef<HTMLDivElement>(null);
  const rowHeight = useRowHeight();

  // Another choice of servers begins at its top.
  const answered = feed.answered.value;
  useLayoutEffect(() => {
    grid.current?.scrollTo({ top: 0 });
    active.value = -1;
  }, [answered]);
  const range = useSeenRange(grid, rowHeight, count);
  useSignalEffect(() => {
    const seen = range.value;
    untracked(() => feed.show(seen));
  });

  const activate = (index: number) => {
    active.value = index;
    const list = grid.current;
    if (list !== null) list.scrollTop = scrollTo(index, list.scrollTop, rowsHeight(list), rowHeight);
  };
  const open = (index: number) => {
    const row = feed.rows.place(index).peek();
    if (row !== undefined) openRow(row, target);
  };
  const chosen = active.value;
  const isInView = useComputed(() => isWithin(active.value, range.value)).value;
  const onKeyDown = useListKeys({
    count,
    // Keys begin at the rows in view: the chosen row may have been scrolled away.
    get index() {
      return isWithin(active.peek(), range.peek()) ? active.peek() : firstSeen(grid.current, rowHeight) - 1;
    },
    get pageRows() {
      return grid.current === null ? 1 : Math.max(1, Math.floor(rowsHeight(grid.current) / rowHeight) - 1);
    },
    onMove: (index) => {
      grid.current?.focus({ preventScroll: true });
      feed.hold.press(performance.now());
      activate(index);
    },
    onOpen: (index) => index === active.peek() && open(index),
  });
  useShortcut("u", "show the newest order", () => feed.rows.apply());

  const onClick = (event: MouseEvent) => {
    const element = event.target as HTMLElement;
    if (event.defaultPrevented || element.closest("a") !== null || !getSelection()?.isCollapsed) return;
    const index = element.closest<HTMLElement>("[data-index]")?.dataset["index"];
    if (index !== undefined) open(Number(index));
  };
  const leave = () => {
    feed.hold.leave();
    feed.settleOrder();
  };
  return (
    <div
      ref={grid}
      role="grid"
      id={LIST_ID}
      class="fleet-grid"
      tabIndex={0}
      aria-label={props.isGrouped ? "Groups of servers" : "Servers"}
      aria-rowcount={count + 1}
      style={{ minHeight: `${Math.min(7, count) * rowHeight + 36}px` }}
      aria-activedescendant={isInView ? `${ROW_ID}${chosen}` : undefined}
      onKeyDown={onKeyDown}
      onBlur={() => {
        feed.hold.blur();
        feed.settleOrder();
      }}
      onPointerMove={(event) => event.pointerType !== "touch" && feed.hold.point(performance.now())}
      onPointerLeave={leave}
      onClick={onClick}
    >
      <Head isGrouped={props.isGrouped} />
      <div role="rowgroup" class={SPACER} style={{ height: `${count * rowHeight}px` }}>
        <RowsInView range={range} rowHeight={rowHeight} active={active} />
      </div>
    </div>
  );
}

/** A component of its own, so that scrolling draws nothing else. */
function RowsInView(props: {
  range: ReadonlySignal<RowRange>;
  rowHeight: number;
  active: ReadonlySignal<number>;
}) {
  const { first, end } = props.range.value;
  const indexes = Array.from({ length: end - first }, (_, number) => first + number);
  return (
    <>
      {indexes.map((index) => (
        <Row key={index} index={index} height={props.rowHeight} active={props.active} />
      ))}
    </>
  );
}

function isWithin(index: number, { first, end }: RowRange): boolean {
  return index >= first && index < end;
}

/** The height in which rows are seen: the head stays above them. */
function rowsHeight(grid: HTMLElement): number {
  return grid.clientHeight - (grid.querySelector<HTMLElement>(`.${SPACER}`)?.offsetTop ?? 0);
}

function firstSeen(list: HTMLElement | null, rowHeight: number): number {
  return list === null ? 0 : Math.ceil(list.scrollTop / rowHeight);
}

function Head({ isGrouped }: { isGrouped: boolean }) {
  const { contract } = useFleet();
  const span = contract && `, next ${formatDuration(contract.horizon * contract.step_seconds)}`;
  return (
    <div role="rowgroup" class="fleet-head">
      <div role="row" class="fleet-columns" aria-rowindex={1}>
        <span role="columnheader">{isGrouped ? "Group" : "Server"}</span>
        <span role="columnheader">Wrong now</span>
        <span role="columnheader">Time until the threshold{span}</span>
        <span role="columnheader">Forecast</span>
        <span role="columnheader" class="fleet-age">
          {isGrouped ? "Servers" : "Forecast age"}
        </span>
      </div>
    </div>
  );
}

function useRowHeight(): number {
  const isNarrow = useSignal(narrow.matches);
  useEffect(() => {
    const onChange = () => (isNarrow.value = narrow.matches);
    narrow.addEventListener("change", onChange);
    return () => narrow.removeEventListener("change", onChange);
  }, []);
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize) || 16;
  return Math.round(rem * (isNarrow.value ? ROW_REM.narrow : ROW_REM.wide));
}

function useSeenRange(grid: { current: HTMLElement | null }, rowHeight: number, count: number): Signal<RowRange> {
  const range = useSignal<RowRange>({ first: 0, end: 0 });
  const measure = useRef(() => {});
  measure.current = () => {
    const list = grid.current;
    if (list === null) return;
    const next = seenRange(list.scrollTop, rowsHeight(list), rowHeight, count, OVERSCAN);
    const { first, end } = range.peek();
    if (next.first !== first || next.end !== end) range.value = next;
  };
  useLayoutEffect(() => measure.current(), [rowHeight, count]);
  useEffect(() => {
    const list = grid.current;
    if (list === null) return;
    let frame = 0;
    const later = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        measure.current();
      });
    };
    const observer = new ResizeObserver(later);
    observer.observe(list);
    list.addEventListener("scroll", later, { passive: true });
    return () => {
      cancelAnimationFrame(frame);
      observer.disconnect();
      list.removeEventListener("scroll", later);
    };
  }, []);
  return range;
}
