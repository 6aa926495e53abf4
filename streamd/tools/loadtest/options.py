"""The options of `streamd replay`, and the plain data made from them. Reads no file, opens no connection."""

import argparse
from pathlib import Path

from streamd.tools.fleets.arguments import add_map_argument
from streamd.tools.loadtest.capture_result import CaptureSetup
from streamd.tools.loadtest.errors import UsageError
from streamd.tools.loadtest.plan import Pace
from streamd.tools.loadtest.result import ReplaySetup
from streamd.tools.loadtest.sender import ConnectionLimits
from streamd.tools.loadtest.subscriber import SubscriptionOptions
from streamd.tools.loadtest.wire import ClientEncoding, ClientForm
from streamd.tools.loadtest.workers import WireOptions

EXAMPLE_FLEET = Path("examples/fleet/servers.csv.gz")

EPILOG = """\
examples:
  replay the example fleet at 600 times real time:
    streamd replay --context-rows 288 --limit-rows 48 --speed 600
  4,000 rows/s of 20,000 synthetic servers, forecasts as MessagePack batches of float16:
    streamd replay --synthetic 20000 --context-rows 288 --rate 4000 --duration 60 \\
      --connections 8 --form columns --encoding msgpack --samples-a-frame 100 --dtype float16 --processes 2
  last week's metrics of a Prometheus, and the bodies that agents sent:
    streamd replay --capture dump.txt.gz bodies/ --url http://127.0.0.1:8002
A daemon with tokens needs one with the scopes ingest, subscribe and read in the variable STREAMD_TOKEN.
exit status: 0 complete; 1 something was lost; 2 wrong usage; 3 no daemon answered; 4 nothing was verified (no row was
sent, accepted or due); 130 interrupted. A sample that the daemon rejects is not lost: it is counted, with the reason.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help=f"recorded fleets as .csv, .csv.gz or .parquet [default: {EXAMPLE_FLEET}]",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8002", help="address of the daemon [default: %(default)s]")
    parser.add_argument(
        "--capture",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="bodies that agents sent, folders of them, or texts of `promtool tsdb dump`, also in gzip; - is a dump on"
        " standard input; sent in place of a fleet [default: a fleet]",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error [default: progress]")
    _add_fleet(parser.add_argument_group("fleet"))
    _add_pace(parser.add_argument_group("pace (without --rate and --speed: as fast as acks arrive)"))
    _add_wire(parser.add_argument_group("samples on the wire"))
    _add_subscribers(parser.add_argument_group("subscribers"))
    _add_limits(parser.add_argument_group("limits and results"))


def _add_fleet(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--servers", type=_parse_positive, metavar="N", help="number of servers taken from the files [default: all]"
    )
    group.add_argument(
        "--synthetic",
        type=_parse_positive,
        metavar="N",
        help="number of synthetic servers made from the files' series [default: the recorded servers]",
    )
    group.add_argument("--seed", type=int, default=1, help="seed of the synthetic fleet [default: %(default)s]")
    group.add_argument(
        "--skip-rows",
        type=_parse_natural,
        default=0,
        metavar="N",
        help="steps left out at the beginning of the files [default: %(default)s]",
    )
    group.add_argument(
        "--context-rows",
        type=_parse_natural,
        default=0,
        metavar="N",
        help="steps sent as history, as fast as acks arrive, before the measured stretch [default: %(default)s]",
    )
    group.add_argument(
        "--limit-rows",
        type=_parse_positive,
        metavar="N",
        help="steps of each server in the measured stretch [default: by --duration, else all of the files]",
    )
    group.add_argument(
        "--shift-to-now",
        action="store_true",
        help="times moved so that the last row is of the step that just ended [default: times of the files]",
    )
    add_map_argument(group)
    group.add_argument(
        "--resume", type=Path, metavar="LIST", help="file of an --acked-list whose rows are left out [default: no file]"
    )


def _add_pace(group: argparse._ArgumentGroup) -> None:
    pace = group.add_mutually_exclusive_group()
    pace.add_argument(
        "--rate",
        type=_parse_above_zero,
        metavar="ROWS",
        help="rows a second of the whole fleet [default: as fast as acks arrive]",
    )
    pace.add_argument(
        "--speed", type=_parse_above_zero, metavar="X", help="multiple of real time [default: as fast as acks arrive]"
    )
    group.add_argument(
        "--burst",
        action="store_true",
        help="with --speed: all servers at the beginning of each step [default: evenly over the step]",
    )
    group.add_argument(
        "--duration",
        type=_parse_above_zero,
        metavar="SECONDS",
        help="longest time of the measured stretch [default: until all rows are sent]",
    )


def _add_wire(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--transport",
        choices=("websocket", "http"),
        default="websocket",
        help="protocol of the samples [default: %(default)s]",
    )
    group.add_argument(
        "--encoding",
        type=ClientEncoding,
        choices=list(ClientEncoding),
        default=ClientEncoding.JSON,
        help="encoding of the samples [default: %(default)s]",
    )
    group.add_argument(
        "--form",
        type=ClientForm,
        choices=list(ClientForm),
        default=ClientForm.SAMPLES,
        help="form of the samples: each on its own, or many servers in columns [default: %(default)s]",
    )
    group.add_argument(
        "--connections",
        type=_parse_positive,
        default=1,
        metavar="C",
        help="number of connections that send [default: %(default)s]",
    )
    group.add_argument(
        "--samples-a-frame",
        type=_parse_positive,
        default=1,
        metavar="B",
        help="samples in each frame of the measured stretch [default: %(default)s]",
    )
    group.add_argument(
        "--split",
        type=_parse_positive,
        default=1,
        metavar="K",
        help="number of samples into which each row is split [default: %(default)s]",
    )


def _add_subscribers(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--subscribers",
        type=_parse_natural,
        default=1,
        metavar="N",
        help="number of subscribers to the forecasts [default: %(default)s]",
    )
    group.add_argument(
        "--subscriber-encoding",
        type=ClientEncoding,
        choices=list(ClientEncoding),
        default=ClientEncoding.MSGPACK,
        help="encoding of the forecasts [default: %(default)s]",
    )
    group.add_argument(
        "--glob",
        action="append",
        metavar="GLOB",
        help="pattern of the servers to subscribe to or, with --capture, to show; may be repeated [default: *]",
    )
    group.add_argument(
        "--targets", type=_parse_names, default=(), metavar="A,B", help="targets to subscribe to or show [default: all]"
    )
    group.add_argument(
        "--every", type=_parse_positive, metavar="STEPS", help="distance between the steps of a forecast [default: 1]"
    )
    group.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        help="type of the values in MessagePack forecasts [default: the daemon's]",
    )
    group.add_argument(
        "--one-by-one",
        action="store_true",
        help="one frame for each forecast [default: one frame for each micro-batch]",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--processes",
        type=_parse_positive,
        default=1,
        metavar="P",
        help="number of processes; from 2 on, senders and subscribers are separate [default: %(default)s]",
    )
    group.add_argument(
        "--in-flight",
        type=_parse_positive,
        default=8,
        metavar="FRAMES",
        help="frames in flight on each connection, without --rate and --speed [default: %(default)s]",
    )
    group.add_argument(
        "--ack-timeout",
        type=_parse_above_zero,
        default=30.0,
        metavar="SECONDS",
        help="time without any ack after which a connection counts as lost [default: %(default)g]",
    )
    group.add_argument(
        "--reconnect",
        type=_parse_not_negative,
        default=0.0,
        metavar="SECONDS",
        help="time for which to reconnect after a loss [default: %(default)g]",
    )
    group.add_argument(
        "--settle",
        type=_parse_above_zero,
        default=15.0,
        metavar="SECONDS",
        help="time without any change after which the wait for the last forecasts ends; with --capture, time in which"
        " the last rows close, longer than row_grace_seconds [default: %(default)g]",
    )
    group.add_argument(
        "--acked-list",
        type=Path,
        metavar="FILE",
        help="file to write with the server, step and time of each acknowledged row [default: no file]",
    )
    group.add_argument(
        "--verify",
        type=Path,
        metavar="LIST",
        help="file of an --acked-list whose rows are looked up in the daemon; nothing is sent [default: no file]",
    )
    group.add_argument("--json", type=Path, metavar="FILE", help="file to write with the result [default: no file]")


_CAPTURE_OPTIONS = ("capture", "url", "quiet", "glob", "targets", "ack_timeout", "reconnect", "settle", "json")
"""Options that a replay of captures has."""


def make_capture_setup(args: argparse.Namespace) -> CaptureSetup:
    """Make the setup of a replay of captures from the options. Raises `UsageError` for an option of fleets."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    for dest, default in vars(parser.parse_args([])).items():
        if dest not in _CAPTURE_OPTIONS and getattr(args, dest) != default:
            name = "FILE" if dest == "files" else f"--{dest.replace('_', '-')}"
            raise UsageError(f"{name} is for a fleet; --capture sends bodies as they were recorded")
    return CaptureSetup(
        paths=args.capture,
        url=args.url.rstrip("/"),
        globs=tuple(args.glob or ("*",)),
        targets=args.targets,
        close_seconds=args.settle,
        answer_seconds=args.ack_timeout,
        reconnect_seconds=args.reconnect,
    )


def make_pace(args: argparse.Namespace) -> Pace:
    """Make the pace from the options."""
    return Pace(args.rate, args.speed, args.burst)


def make_setup(args: argparse.Namespace) -> ReplaySetup:
    """Make the setup of a replay from the options, all but fleet and pace. Raises `UsageError`."""
    if args.dtype and args.subscriber_encoding is ClientEncoding.JSON:
        raise UsageError("--dtype is for MessagePack subscribers; JSON has numbers of one kind")
    if args.burst and args.speed is None:
        raise UsageError("--burst needs --speed")
    return ReplaySetup(
        wire=WireOptions(args.url.rstrip("/"), args.transport, args.encoding, args.form),
        subscription=SubscriptionOptions(
            servers=tuple(args.glob or ("*",)),
            encoding=args.subscriber_encoding,
            batch=not args.one_by_one,
            dtype=args.dtype,
            every=args.every,
            targets=args.targets,
        ),
        limits=ConnectionLimits(args.in_flight, args.ack_timeout, args.reconnect),
        subscribers=args.subscribers,
        processes=args.processes,
        unchanged_seconds=args.settle,
        duration_seconds=args.duration,
    )


def _parse_positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number


def _parse_natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or more")
    return number


def _parse_above_zero(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0")
    return number


def _parse_not_negative(text: str) -> float:
    number = float(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or more")
    return number


def _parse_names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)
