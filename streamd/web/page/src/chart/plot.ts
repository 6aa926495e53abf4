/** One uPlot in an element: listens to the mouse, fingers, theme and size, and frees all of it in the end. */
import { effect } from "@preact/signals";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { attachTouch, wheelFactor } from "./gestures";
import { drawnRange, scaleRange, type ChartGroup } from "./group";
import { buildOptions, columnsOf } from "./options";
import { extentOf, nearestIndex, type ChartSpec, type TimeRange } from "./spec";
import { ChartTheme, watchTheme } from "./theme";

export interface PlotSource {
  /** What to show now. */
  spec: () => ChartSpec;
  group: ChartGroup;
  zoomTo: (range: TimeRange | null) => void;
  height: number;
}

const NARROWEST_PIXELS = 80;

export class Plot {
  private readonly plot: uPlot;
  private readonly theme: ChartTheme;
  private readonly ends: (() => void)[];
  private height: number;

  constructor(
    private readonly element: HTMLElement,
    private readonly source: PlotSource,
  ) {
    this.theme = new ChartTheme(element);
    this.height = source.height;
    const options = buildOptions(
      {
        spec: source.spec,
        range: () => this.range(),
        theme: this.theme,
        onDrawn: (first, second) => source.zoomTo(drawnRange(first, second, this.extent())),
      },
      Math.max(element.clientWidth, NARROWEST_PIXELS),
      source.height,
    );
    this.plot = new uPlot(options, columnsOf(source.spec()), element);
    this.ends = [
      this.followMouse(),
      this.followFingers(),
      this.followSize(),
      this.followTheme(),
      ...this.followGroup(),
    ];
  }

  /** Draw what the source shows now; the shape must be the same. */
  update(): void {
    this.plot.setData(columnsOf(this.source.spec()));
    this.placeCursor();
  }

  resize(height: number): void {
    this.height = height;
    this.plot.setSize({ width: this.plot.width, height });
  }

  free(): void {
    for (const end of this.ends) end();
    this.plot.destroy();
  }

  private extent(): TimeRange {
    return extentOf(this.source.spec());
  }

  private range(): TimeRange {
    return this.source.group.zoom.peek() ?? this.extent();
  }

  private timeAt(left: number): number {
    return this.plot.posToVal(left, "x");
  }

  /** Put the crosshair of the group on the point that is nearest to a position. */
  private pointAt(left: number): void {
    const times = this.source.spec().times;
    this.source.group.cursor.value = times[nearestIndex(times, this.timeAt(left))] ?? null;
  }

  private followMouse(): () => void {
    const { over } = this.plot;
    const { group, zoomTo } = this.source;
    const listeners = new AbortController();
    const { signal } = listeners;
    // Not by uPlot's hook: it also reports what it moved itself, so charts with one crosshair would push each other.
    over.addEventListener("mousemove", (event) => this.pointAt(event.offsetX), { signal });
    over.addEventListener("mouseleave", () => (group.cursor.value = null), { signal });
    over.addEventListener("dblclick", () => zoomTo(null), { signal });
    const onWheel = (event: WheelEvent) => {
      if (!event.ctrlKey) return; // the page scrolls
      event.preventDefault();
      const around = this.timeAt(event.clientX - over.getBoundingClientRect().left);
      zoomTo(scaleRange(this.range(), wheelFactor(event.deltaY), around, this.extent()));
    };
    this.element.addEventListener("wheel", onWheel, { signal, passive: false });
    return () => listeners.abort();
  }

  private followFingers(): () => void {
    return attachTouch(this.plot.over, {
      timeAt: (left) => this.timeAt(left),
      extent: () => this.extent(),
      onZoom: this.source.zoomTo,
      onCursor: (left) => this.pointAt(left),
    });
  }

  private followSize(): () => void {
    const observer = new ResizeObserver(() => {
      const width = this.element.clientWidth;
      if (width > 0) this.plot.setSize({ width, height: this.height });
    });
    observer.observe(this.element);
    return () => observer.disconnect();
  }

  private followTheme(): () => void {
    return watchTheme(() => {
      this.theme.forget();
      this.plot.redraw(false, true);
    });
  }

  private followGroup(): (() => void)[] {
    const { cursor, zoom } = this.source.group;
    return [
      effect(() => {
        const { from, to } = zoom.value ?? this.extent();
        this.plot.setScale("x", { min: from, max: to });
        this.placeCursor();
      }),
      effect(() => this.showCursor(cursor.value)),
    ];
  }

  /** Put the crosshair on its time again, after uPlot has moved its scale. */
  private placeCursor(): void {
    queueMicrotask(() => this.showCursor(this.source.group.cursor.peek()));
  }

  private showCursor(at: number | null): void {
    const { plot } = this;
    const middle = plot.over.clientHeight / 2;
    plot.setCursor(at === null ? { left: -10, top: -10 } : { left: plot.valToPos(at, "x"), top: middle }, false);
  }
}
