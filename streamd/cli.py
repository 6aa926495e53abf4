"""The console command `streamd` and its subcommands.

Imports what a command needs only when the command runs, so that `--help` is quick.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from streamd import __version__
from streamd.core.names import BACKEND_CHOICES, PART_FLAG

USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = make_parser()
    args, rest = parser.parse_known_args(arguments)
    if rest and not args.takes_rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    status: int = args.run(args)
    return status


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="streamd", description="Turns a server fleet's metrics into quantile forecasts, continuously."
    )
    parser.add_argument("--version", action="version", version=f"streamd {__version__}")
    parser.set_defaults(takes_rest=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="run the daemon", description="Run the daemon."))
    for name, module, extra, text in _LAZY:
        command = commands.add_parser(name, help=text, add_help=False)
        command.set_defaults(run=_run_lazily, module=module, extra=extra, prog=f"streamd {name}", takes_rest=True)
    return parser


_LAZY: tuple[tuple[str, str, str | None, str], ...] = (
    ("demo", "streamd.tools.loadtest.demo_command", None, "show the daemon at work on twelve real servers"),
    ("replay", "streamd.tools.loadtest.cli", None, "replay a fleet into a daemon and account for each forecast"),
    ("ingest", "streamd.tools.ingest.command", None, "push what an agent printed, such as pcp2json, to a daemon"),
    ("mapping", "streamd.tools.mapping.command", None, "show which features the series of an agent become"),
    ("alerts", "streamd.tools.alerts.command", None, "judge alert rules on recorded servers, and explain them"),
    ("doctor", "streamd.server.doctor.command", None, "check whether the daemon can run here, and how to repair it"),
    ("top", "streamd.tools.top.command", None, "show a running daemon's rates, lanes and latency in the terminal"),
    ("token", "streamd.tools.tokens.command", None, "create, list and revoke the tokens of callers"),
    ("cluster", "streamd.tools.cluster.command", "cluster", "show and change a cluster of nodes (extra: cluster)"),
    ("engine", "streamd.tools.engine.command", "build", "make, check and keep engine versions (extra: build)"),
    ("train", "streamd.tools.training.train", "train", "train a network (extra: train)"),
    ("release", "streamd.tools.training.release", "train", "make an engine version of a training run (extra: train)"),
    ("evaluate", "streamd.tools.training.evaluate", "train", "judge an engine version or a run (extra: train)"),
)
"""Name, module, extra and help of the commands whose modules are imported only when they are named.

The module declares the arguments. The extra is `None` if the command needs no extra.
"""


def _run_lazily(args: argparse.Namespace) -> int:
    from streamd.core.errors import ConfigError

    try:
        module = importlib.import_module(args.module)
    except ImportError as exc:
        if args.extra is None:
            raise
        message = f"{args.prog}: {exc}; install what it needs: pip install 'streamd[{args.extra}]'"
        print(message, file=sys.stderr)  # noqa: T201 - a terminal program
        return USAGE_ERROR
    parser = argparse.ArgumentParser(prog=args.prog, description=(module.__doc__ or "").partition("\n")[0])
    module.add_arguments(parser)
    try:
        status: int = module.main(parser.parse_args(args.rest))
    except ConfigError as exc:
        print(f"{args.prog}: {exc}", file=sys.stderr)  # noqa: T201 - a terminal program
        return USAGE_ERROR
    return status


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Every key of config.toml also has an environment variable, STREAMD_<KEY>, such as STREAMD_PORT=8002. "
        "A flag overrides its variable, which overrides the file."
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="file with settings in TOML [default: the built-in settings]"
    )
    parser.add_argument("--host", metavar="H", help="address to listen on [default: 127.0.0.1]")
    parser.add_argument(
        "--port", type=int, metavar="P", help="port to listen on; 0 takes any free port [default: 8002]"
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", help="folder of the data that outlives the process [default: state]"
    )
    parser.add_argument("--engines", metavar="DIR", help="folder of engine versions [default: engines]")
    parser.add_argument("--engine", metavar="VERSION", help="version to serve [default: the promoted one]")
    parser.add_argument(
        "--backend",
        choices=BACKEND_CHOICES,
        help="backend that runs the model; auto takes the first one that works here [default: auto]",
    )
    parser.add_argument(
        "--cluster",
        dest="nats",
        metavar="URLS",
        help="servers of NATS, as nats://a:4222,nats://b:4222, over which daemons share a fleet [default: one host]",
    )
    parser.add_argument("--node", metavar="NAME", help="name of this daemon in the cluster [default: the host's name]")
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help="least severe level that is logged [default: info]",
    )
    parser.add_argument(PART_FLAG, default="", help=argparse.SUPPRESS)  # set by the supervisor of several processes
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    from streamd.core.errors import ConfigError
    from streamd.server.config import load_config
    from streamd.server.start import serve

    keys = ("host", "port", "state_dir", "engines", "engine", "backend", "log_level", "nats", "node")
    read = partial(load_config, args.config, flags={key: getattr(args, key) for key in keys})
    try:
        return serve(read, args.part)
    except ConfigError as exc:
        print(f"streamd: {exc}", file=sys.stderr)  # noqa: T201 - logs are not set up yet
        return USAGE_ERROR
