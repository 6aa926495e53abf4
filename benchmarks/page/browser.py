"""Measurements in a browser tab that shows the fleet: times of frames, long tasks, and the heap."""

from dataclasses import dataclass, field

import numpy as np
from playwright.sync_api import CDPSession, Page

RECORD_FRAMES = """
(() => {
  const record = { deltas: [], longTasks: [] };
  window.frameRecord = record;
  let before = performance.now();
  const next = (now) => {
    record.deltas.push(now - before);
    before = now;
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) record.longTasks.push(entry.duration);
  }).observe({ type: "longtask" });
})();
"""
TAKE_FRAMES = """
() => {
  const { deltas, longTasks } = window.frameRecord;
  window.frameRecord.deltas = [];
  window.frameRecord.longTasks = [];
  return { deltas, longTasks };
}
"""
SCROLL_PIXELS = 400
SCROLL_MS = 50
"""One turn of the wheel each so many milliseconds: a reader who looks for something."""
LONG_FRAME_MS = 33.0


@dataclass
class FrameTimes:
    """The frames of some phase, and the tasks that took longer than 50 ms."""

    deltas_ms: list[float] = field(default_factory=list)
    long_tasks_ms: list[float] = field(default_factory=list)

    def summarize(self) -> dict[str, float]:
        """Return the measurements of the phase."""
        deltas = np.array(self.deltas_ms or [0.0])
        return {
            "frames": len(self.deltas_ms),
            "p50_ms": round(float(np.percentile(deltas, 50)), 1),
            "p95_ms": round(float(np.percentile(deltas, 95)), 1),
            "p99_ms": round(float(np.percentile(deltas, 99)), 1),
            "max_ms": round(float(deltas.max()), 1),
            "over_33_ms_share": round(float((deltas > LONG_FRAME_MS).mean()), 4),
            "long_tasks": len(self.long_tasks_ms),
            "longest_task_ms": round(max(self.long_tasks_ms, default=0.0), 1),
        }


class MeasuredTab:
    """A tab that was opened with `RECORD_FRAMES` as a script of its own."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._devtools: CDPSession = page.context.new_cdp_session(page)
        self._devtools.send("Performance.enable")
        self.resting, self.scrolling = FrameTimes(), FrameTimes()

    def forget_frames(self) -> None:
        """Leave out what was recorded until now."""
        self._page.evaluate(TAKE_FRAMES)

    def rest(self, seconds: float) -> None:
        """Let the page show what arrives."""
        self._page.wait_for_timeout(seconds * 1e3)
        self._take(self.resting)

    def scroll(self, seconds: float) -> None:
        """Turn the wheel over the list, down and back up again."""
        self._page.mouse.move(600, 500)
        turns = int(seconds * 1e3 / SCROLL_MS)
        for turn in range(turns):
            self._page.mouse.wheel(0, SCROLL_PIXELS if turn < turns / 2 else -SCROLL_PIXELS)
            self._page.wait_for_timeout(SCROLL_MS)
        self._take(self.scrolling)

    def read_heap_bytes(self) -> tuple[int, int]:
        """Return the bytes of the heap before and after a collection."""
        before = self._read_metric("JSHeapUsedSize")
        self._devtools.send("HeapProfiler.collectGarbage")
        return before, self._read_metric("JSHeapUsedSize")

    def _read_metric(self, name: str) -> int:
        metrics = self._devtools.send("Performance.getMetrics")["metrics"]
        return int(next(metric["value"] for metric in metrics if metric["name"] == name))

    def _take(self, frames: FrameTimes) -> None:
        taken = self._page.evaluate(TAKE_FRAMES)
        frames.deltas_ms += taken["deltas"]
        frames.long_tasks_ms += taken["longTasks"]
