"""Draw a few milliseconds of `timeline.json`: `python -m benchmarks.gpu.timeline_picture timeline.json OUT.svg`.

Each lane has two bars: its thread above, the GPU below. Needs matplotlib; measures nothing.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

PHASES = (
    ("gather", "began", "gathered", "#4c78a8"),
    ("launch", "gathered", "launched", "#f58518"),
    ("wait", "launched", "waited", "#dddddd"),
    ("put in order", "waited", "ordered", "#54a24b"),
    ("on the GPU", "gpu_began", "gpu_ended", "#b279a2"),
)
HALF = 0.38


def main() -> int:
    """Draw one picture with a panel for each run."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, help="timeline.json of the section timeline")
    parser.add_argument("picture", type=Path, help="picture to write, .svg or .png")
    parser.add_argument(
        "--milliseconds", type=float, default=12.0, help="length of the stretch to draw [default: %(default)g]"
    )
    args = parser.parse_args()
    runs = [run for run in json.loads(args.result.read_text())["runs"] if run["picture"]]
    figure, panels = pyplot.subplots(len(runs), 1, figsize=(11, 3.4 * len(runs)), squeeze=False, layout="constrained")
    for run, panel in zip(runs, panels[:, 0], strict=True):
        draw(panel, run, args.milliseconds)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(PHASES), frameon=False)
    figure.savefig(args.picture)
    return 0


def draw(panel: Any, run: dict[str, Any], milliseconds: float) -> None:
    """Draw one run: two bars for each lane, its thread's above the GPU's."""
    for name, first, last, colour in PHASES:
        gpu = first.startswith("gpu")
        for row, lane in enumerate(sorted({batch["lane"] for batch in run["picture"]})):
            batches = [batch for batch in run["picture"] if batch["lane"] == lane and batch[last] > batch[first]]
            bars = [(batch[first], batch[last] - batch[first]) for batch in batches]
            place = (row, HALF) if gpu else (row - HALF, HALF)
            label = name if row == 0 else None
            panel.broken_barh(bars, place, facecolors=colour, edgecolor="white", linewidth=0.3, label=label)
    lanes = len({batch["lane"] for batch in run["picture"]})
    panel.set_yticks(range(lanes), [f"lane {lane}" for lane in range(lanes)])
    panel.invert_yaxis()
    panel.set_xlim(0, milliseconds)
    panel.set_xlabel("ms")
    busy = run.get("gpu_busy_share")
    title = (
        f"{run['engine']} {run['precision']}, bucket {run['bucket']}: {run['forecasts_per_second']:,.0f} forecasts/s"
    )
    panel.set_title(title + (f", GPU busy {busy:.1%}" if busy is not None else ""), fontsize=10)


if __name__ == "__main__":
    sys.exit(main())
