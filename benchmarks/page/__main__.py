"""Measure the fleet view in Chromium: `python -m benchmarks.page --minutes 10`.

A daemon whose lanes cost nothing forecasts 20,000 servers that send 4,000 rows/s, with three alert rules. The fleet
view is open; for ten seconds of each minute its list is scrolled. Measured are the times of frames
(`requestAnimationFrame`), tasks over 50 ms, and the heap after a collection, each minute. Then the page is opened and
closed in turns, for the CPU time that the event loop's thread has in each.

All of it shares the machine: daemon, sender, browser, driver. On two cores frames wait for each other's processes, so
run it on a quiet machine with more. Time passes 60 times as fast as outside, so forecasts lie ahead of the clock. Not
measured: a network, a GPU of the reader, several tabs.
"""

import argparse
import statistics
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.harness import describe_machine, print_table, write_result
from benchmarks.page.browser import RECORD_FRAMES, MeasuredTab
from benchmarks.page.load import FleetSize, LoadedDaemon, run_load
from tests.support.page_browser import launch_chromium

MINUTE = 60.0
SCROLL_SECONDS = 10.0
SETTLE_SECONDS = 10.0
GOALS = {"p95_ms": 33.0, "heap_mb": 100.0, "loop_share": 0.03}
HEAD = ("phase", "frames", "p50 ms", "p95 ms", "p99 ms", "max ms", "over 33 ms", "long tasks", "longest ms")


def main() -> int:
    """Measure, print the measurements and write them; returns 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="time for frames and heap [default: %(default)g]")
    parser.add_argument("--turns", type=int, default=5, help="pairs of turns with and without page [default: 5]")
    parser.add_argument("--turn-seconds", type=float, default=30.0, help="length of a turn [default: %(default)g]")
    parser.add_argument("--servers", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=4_000.0, help="rows a second [default: %(default)g]")
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": describe_machine(), "servers": args.servers, "rows_per_second": args.rate}
    with run_load(FleetSize(args.servers, args.rate)) as daemon, sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        if args.minutes > 0:
            result |= measure_tab(browser, daemon, args.minutes)
        if args.turns > 0:
            result["loop"] = measure_loop(browser, daemon, args.turns, args.turn_seconds)
        browser.close()
    print_result(result)
    result["missed_goals"] = missed = list_missed_goals(result)
    print(f"\nwritten to {write_result('page', result)}; goals missed: {', '.join(missed) or 'none'}")
    return int(bool(missed))


def measure_tab(browser: Browser, daemon: LoadedDaemon, minutes: float) -> dict[str, Any]:
    """Keep the fleet view open for so many minutes, and scroll it for a part of each."""
    page = open_fleet(browser, daemon)
    tab = MeasuredTab(page)
    page.wait_for_timeout(SETTLE_SECONDS * 1e3)
    tab.forget_frames()
    heaps = [tab.read_heap_bytes()]
    began = time.monotonic()
    minute = min(minutes, 1.0) * MINUTE
    while time.monotonic() - began < minutes * MINUTE - 1.0:
        tab.rest(minute - min(SCROLL_SECONDS, minute / 2))
        tab.scroll(min(SCROLL_SECONDS, minute / 2))
        heaps.append(tab.read_heap_bytes())
        tab.forget_frames()  # a collection that is asked for stops the page
        print(f"  {(time.monotonic() - began) / MINUTE:.1f} min: heap {heaps[-1][1] / 1e6:.1f} MB", file=sys.stderr)
    page.context.close()
    return {
        "resting": tab.resting.summarize(),
        "scrolling": tab.scrolling.summarize(),
        "heap": describe_heap(heaps, minute / MINUTE),
    }


def describe_heap(heaps: list[tuple[int, int]], minutes_apart: float) -> dict[str, Any]:
    """Return the heap after collections in MB, what it was before them at most, and its slope over the second half."""
    after = [size / 1e6 for _, size in heaps]
    late = after[len(after) // 2 :]
    slope = float(np.polyfit(np.arange(len(late)) * minutes_apart, late, 1)[0]) if len(late) > 1 else 0.0
    return {
        "start_mb": round(after[0], 1),
        "end_mb": round(after[-1], 1),
        "most_before_collection_mb": round(max(size for size, _ in heaps) / 1e6, 1),
        "slope_mb_per_minute": round(slope, 3),
        "each_mb": [round(size, 1) for size in after],
    }


def measure_loop(browser: Browser, daemon: LoadedDaemon, turns: int, seconds: float) -> dict[str, Any]:
    """Compare the CPU time of the loop's thread in turns with the page and without it."""
    turns_of: dict[str, list[Turn]] = {"without": [], "with": []}
    for number in range(turns):
        for name in ("without", "with") if number % 2 == 0 else ("with", "without"):
            page = open_fleet(browser, daemon) if name == "with" else None
            wait(page, min(SETTLE_SECONDS, seconds / 3))
            before, began = daemon.read_usage(), time.monotonic()
            wait(page, seconds)
            passed, after = time.monotonic() - began, daemon.read_usage()
            turns_of[name].append(Turn(*((new - old) / passed for new, old in zip(after, before, strict=True))))
            if page is not None:
                page.context.close()
    extra = [each.loop - other.loop for each, other in zip(turns_of["with"], turns_of["without"], strict=True)]
    busy = {name: statistics.median(turn.loop for turn in each) for name, each in turns_of.items()}
    return {
        **{f"loop_busy_{name}": round(each, 4) for name, each in busy.items()},
        "extra_of_the_loop": round(statistics.median(extra), 4),
        "ratio": round(busy["with"] / busy["without"], 4),
        "extras": [round(each, 4) for each in extra],
        **{
            f"process_busy_{name}": round(statistics.median(turn.process for turn in each), 4)
            for name, each in turns_of.items()
        },
        **{
            f"rows_per_second_{name}": round(statistics.median(turn.rows for turn in each))
            for name, each in turns_of.items()
        },
    }


class Turn(NamedTuple):
    """What a turn took: CPU seconds of the loop's thread and of the process, and closed rows, all per second."""

    loop: float
    process: float
    rows: float


def wait(page: Page | None, seconds: float) -> None:
    """Wait; Playwright hears of a page only while it waits for it."""
    if page is None:
        time.sleep(seconds)
    else:
        page.wait_for_timeout(seconds * 1e3)


def open_fleet(browser: Browser, daemon: LoadedDaemon) -> Page:
    """Open the fleet view in a profile of its own, and wait until its rows are there."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.add_init_script(RECORD_FRAMES)
    page.goto(f"{daemon.url}/#/fleet")
    expect(page.get_by_role("row").nth(5)).to_contain_text("-0")
    return page


def print_result(result: dict[str, Any]) -> None:
    """Print the measurements as tables."""
    if "heap" in result:
        print_table("Frames", HEAD, [(name, *result[name].values()) for name in ("resting", "scrolling")])
        print_table("Heap, MB", ("figure", "value"), [(key, str(value)) for key, value in result["heap"].items()])
    if "loop" in result:
        print_table(
            "The loop's thread", ("figure", "value"), [(key, str(value)) for key, value in result["loop"].items()]
        )


def list_missed_goals(result: dict[str, Any]) -> list[str]:
    """Return which goals are missed, in words."""
    missed = [
        f"{phase}: p95 {result[phase]['p95_ms']} ms, at most {GOALS['p95_ms']:g}"
        for phase in ("resting", "scrolling")
        if phase in result and result[phase]["p95_ms"] > GOALS["p95_ms"]
    ]
    if "heap" in result and result["heap"]["end_mb"] > GOALS["heap_mb"]:
        missed.append(f"heap {result['heap']['end_mb']} MB, at most {GOALS['heap_mb']:g}")
    if "loop" in result and result["loop"]["extra_of_the_loop"] > GOALS["loop_share"]:
        missed.append(f"loop {result['loop']['extra_of_the_loop']:.1%}, at most {GOALS['loop_share']:.0%}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
