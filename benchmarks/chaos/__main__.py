"""Runs the chaos suite: `python -m benchmarks.chaos --minutes 30 --seed 1`; ends with 0 if every promise held.

Rows are sent by WebSocket and POST, in JSON and MessagePack, as samples and as columns (with 16 servers a sender or
more, `--servers 200`, they are written together), and forecasts are read in every form, while the daemon is killed,
stopped and paused, its lanes hang, fail and are lost, its disk fills, its clock jumps, frames are torn, subscribers
stall, versions are promoted and reloaded, and a token is revoked. Checked, of every forecast, window and ack: no
acknowledged row is lost, no forecast is wrong (each is compared with the model on the naive window), none is delivered
twice for one row and version on one connection, or out of order, or to a caller whose token does not allow it, and
memory and descriptors are flat.

The folder of the run has `chaos.jsonl` (each fault and finding, and the summary as the last line) and `daemon.log`.
A seed fixes the order and length of the faults and the rows; what they meet, the machine decides.

Not covered: a power failure, a real GPU, a network. The full disk needs root, the clock libfaketime; what is skipped is
shown.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.journal import Journal
from benchmarks.chaos.run import ChaosPlan, ChaosRun
from benchmarks.harness import describe_machine

FOUND = 3
"""The exit status of a run with a finding."""

MEMORY_TOLERANCE_BYTES = 2**20
"""A minute, of the slope's lower end: what the allocator's noise makes in short lives."""

DESCRIPTOR_TOLERANCE = 1.0


def main() -> int:
    """Run, print the summary, and return 0 if there is no finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="duration of the faults [default: %(default)s]")
    parser.add_argument("--seed", type=int, default=1, help="of rows and faults [default: %(default)s]")
    parser.add_argument("--servers", type=int, default=40, help="servers that report [default: %(default)s]")
    parser.add_argument("--without", action="append", default=[], choices=FAULTS, help="fault to leave out; repeatable")
    parser.add_argument("--out", type=Path, help="folder of the logs, which must be new [default: a temporary one]")
    args = parser.parse_args()
    folder = args.out or Path(tempfile.mkdtemp(prefix="streamd-chaos-"))
    folder.mkdir(parents=True, exist_ok=args.out is None)
    plan = ChaosPlan(seed=args.seed, seconds=60 * args.minutes, servers=args.servers, without=tuple(args.without))
    print(f"chaos for {args.minutes:g} minutes with seed {args.seed}; logs in {folder}", flush=True)
    with (folder / "chaos.jsonl").open("w", encoding="ascii") as file:
        journal = Journal(file)
        run = ChaosRun(folder.resolve(), plan, journal)
        asyncio.run(run.run())
        judge_slopes(run, journal)
        summary = {"machine": describe_machine(), **run.summarize()}
        journal.write("end", **summary)
    print_summary(summary, journal)
    return FOUND if journal.findings else 0


def judge_slopes(run: ChaosRun, journal: Journal) -> None:
    """Report memory or descriptors that grow by more than their uncertainty explains."""
    for column, tolerance, unit in ((1, MEMORY_TOLERANCE_BYTES, "bytes"), (2, DESCRIPTOR_TOLERANCE, "descriptors")):
        for where, slope in (
            ("within lives", run.watch.fit_within_lives(column)),
            ("over lives", run.watch.fit_over_lives(column)),
        ):
            if not slope.is_flat(tolerance):
                journal.report("growth", f"{where}: {slope.format_in(1, unit)}")


def print_summary(summary: dict[str, object], journal: Journal) -> None:
    """Print what was checked and what was found."""
    for name, count in sorted(journal.checked.items()):
        print(f"  {name:40} {count:>10,}")
    for name, shown in dict(summary["slopes"]).items():  # type: ignore[call-overload]
        print(f"  {name:40} {shown}")
    print(f"  lives of the daemon: {summary['lives']}, {summary['seconds']} s")
    journal.print_examples()
    print("no finding" if not journal.findings else f"findings: {dict(journal.findings)}")


if __name__ == "__main__":
    sys.exit(main())
