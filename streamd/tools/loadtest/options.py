"""The replayer's command line: what can be asked, and what a run is made of from it."""

from __future__ import annotations

import argparse
from pathlib import Path

from streamd.tools.loadtest.errors import UsageError
from streamd.tools.loadtest.plan import Pace
from streamd.tools.loadtest.result import Setup
from streamd.tools.loadtest.sender import Patience
from streamd.tools.loadtest.subscriber import SubscriptionOptions
from streamd.tools.loadtest.wire import ClientEncoding, ClientForm
from streamd.tools.loadtest.workers import Wire

SAMPLE = Path("examples/fleet/servers.csv.gz")

EPILOG = """\
examples:
  replay the shipped servers at 600 times real time:
    .venv/bin/python scripts/replay.py --context-rows 288 --limit-rows 48 --speed 600
  4,000 rows/s of 20,000 synthetic servers, forecasts as MessagePack batches of float16:
    .venv/bin/python scripts/replay.py --synthetic 20000 --context-rows 288 --rate 4000 --duration 60 \\
      --connections 8 --form columns --encoding msgpack --samples-a-frame 100 --dtype float16 --processes 2
exit status: 0 complete, 1 something was lost, 2 wrong usage, 3 no daemon, 4 nothing was verified (no row was sent,
accepted or due), 130 interrupted. A sample that the daemon rejects is not lost: it is counted, with the reason.
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read a command line; exits with 2, as argparse does, when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="replay.py",
        description="Replay a fleet's metrics into a daemon, read its forecasts, and account for every one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help=f".csv, .csv.gz or .parquet (default: {SAMPLE})"
    )
    parser.add_argument("--url", default="http://127.0.0.1:8002", help="of the daemon (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    _add_fleet(parser.add_argument_group("fleet"))
    _add_pace(parser.add_argument_group("pace (neither: as fast as acks allow)"))
    _add_wire(parser.add_argument_group("samples on the wire"))
    _add_subscribers(parser.add_argument_group("subscribers"))
    _add_patience(parser.add_argument_group("patience and results"))
    return parser.parse_args(arguments)


def _add_fleet(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--servers", type=_positive, metavar="N", help="only the first N servers of the files")
    group.add_argument("--synthetic", type=_positive, metavar="N", help="N servers made from the files' series")
    group.add_argument("--seed", type=int, default=1, help="of the synthetic fleet (default: %(default)s)")
    group.add_argument(
        "--skip-rows", type=_natural, default=0, metavar="N", help="leave out each server's first N steps"
    )
    group.add_argument("--context-rows", type=_natural, default=0, metavar="N", help="steps sent fast before measuring")
    group.add_argument("--limit-rows", type=_positive, metavar="N", help="steps of each server in the measured stretch")
    group.add_argument("--shift-to-now", action="store_true", help="move times so that the last row is the newest now")
    group.add_argument(
        "--map", action="append", default=[], metavar="FEATURE=[FACTOR*]COLUMN", help="name a file's column"
    )
    group.add_argument("--resume", type=Path, metavar="LIST", help="leave out the rows of an --acked-list")


def _add_pace(group: argparse._ArgumentGroup) -> None:
    pace = group.add_mutually_exclusive_group()
    pace.add_argument("--rate", type=_above_zero, metavar="ROWS", help="rows a second of the whole fleet")
    pace.add_argument("--speed", type=_above_zero, metavar="X", help="multiple of real time")
    group.add_argument("--burst", action="store_true", help="with --speed: all servers at the beginning of a step")
    group.add_argument("--duration", type=_above_zero, metavar="SECONDS", help="end the measured stretch after so long")


def _add_wire(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--transport", choices=("websocket", "http"), default="websocket")
    group.add_argument("--encoding", type=ClientEncoding, choices=list(ClientEncoding), default=ClientEncoding.JSON)
    group.add_argument("--form", type=ClientForm, choices=list(ClientForm), default=ClientForm.SAMPLES)
    group.add_argument("--connections", type=_positive, default=1, metavar="C")
    group.add_argument("--samples-a-frame", type=_positive, default=1, metavar="B")
    group.add_argument("--split", type=_positive, default=1, metavar="K", help="send each row as K samples")


def _add_subscribers(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--subscribers", type=_natural, default=1, metavar="N")
    group.add_argument(
        "--subscriber-encoding", type=ClientEncoding, choices=list(ClientEncoding), default=ClientEncoding.MSGPACK
    )
    group.add_argument("--glob", action="append", metavar="GLOB", help="servers to subscribe to (default: *)")
    group.add_argument("--targets", type=_names, default=(), metavar="A,B")
    group.add_argument("--every", type=_positive, metavar="STEPS", help="only every so-many-th step of the horizon")
    group.add_argument("--dtype", choices=("float16", "float32"), help="of MessagePack values")
    group.add_argument("--one-by-one", action="store_true", help="a frame a forecast instead of one a micro-batch")


def _add_patience(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--processes", type=_positive, default=1, metavar="P", help="senders and readers apart from 2 on"
    )
    group.add_argument("--in-flight", type=_positive, default=8, metavar="FRAMES", help="a connection, closed loop")
    group.add_argument("--ack-timeout", type=_above_zero, default=30.0, metavar="SECONDS")
    group.add_argument("--reconnect", type=_not_negative, default=0.0, metavar="SECONDS", help="try again for so long")
    group.add_argument("--settle", type=_above_zero, default=15.0, metavar="SECONDS", help="without change, then judge")
    group.add_argument("--acked-list", type=Path, metavar="FILE", help="write each acked (server, step, time)")
    group.add_argument(
        "--verify", type=Path, metavar="LIST", help="send nothing: is each row of an --acked-list there?"
    )
    group.add_argument("--json", type=Path, metavar="FILE", help="write the result")


def pace_of(asked: argparse.Namespace) -> Pace:
    """When rows are to be sent."""
    return Pace(asked.rate, asked.speed, asked.burst)


def setup_of(asked: argparse.Namespace) -> Setup:
    """Everything but fleet and pace. Raises UsageError."""
    if asked.dtype and asked.subscriber_encoding is ClientEncoding.JSON:
        raise UsageError("--dtype is for MessagePack subscribers; JSON has numbers of one kind")
    if asked.burst and asked.speed is None:
        raise UsageError("--burst needs --speed")
    return Setup(
        wire=Wire(asked.url.rstrip("/"), asked.transport, asked.encoding, asked.form),
        subscription=SubscriptionOptions(
            servers=tuple(asked.glob or ("*",)),
            encoding=asked.subscriber_encoding,
            batch=not asked.one_by_one,
            dtype=asked.dtype,
            every=asked.every,
            targets=asked.targets,
        ),
        patience=Patience(asked.in_flight, asked.ack_timeout, asked.reconnect),
        subscribers=asked.subscribers,
        processes=asked.processes,
        settle_seconds=asked.settle,
        duration_seconds=asked.duration,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or more")
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0")
    return number


def _not_negative(text: str) -> float:
    number = float(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or more")
    return number


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)
