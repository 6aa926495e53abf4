"""Make, check and manage engine versions.

Each subcommand is one module with `DESCRIPTION`, `add_arguments(parser)` and `main(args)`, imported only when it is
named. To add a subcommand, write its module and add a line to `SUBCOMMANDS`.
"""

import argparse
import importlib
import sys
from typing import TYPE_CHECKING

from streamd.core.errors import ConfigError, StreamdError

if TYPE_CHECKING:  # so that --help loads nothing heavy
    from streamd.repository.plans import Machine

SUBCOMMANDS: tuple[tuple[str, str, str], ...] = (
    (
        "export",
        "streamd.tools.engine.commands.export",
        "make a version of trained weights in safetensors (extra: train)",
    ),
    (
        "build",
        "streamd.tools.engine.commands.build",
        "build plans or graphs of an ONNX model or a version (extra: build)",
    ),
    (
        "validate",
        "streamd.tools.engine.commands.validate",
        "run the accuracy gate: judge each precision against float32 (extra: build)",
    ),
    ("bench", "streamd.tools.engine.commands.bench", "measure latency and throughput of each precision and backend"),
    ("ship", "streamd.tools.engine.commands.ship", "export, build, validate and promote in one go (extra: train)"),
    ("list", "streamd.tools.engine.commands.list", "list the versions, and mark the one that serves"),
    ("inspect", "streamd.tools.engine.commands.inspect", "check one version and show all that is known of it"),
    (
        "promote",
        "streamd.tools.engine.commands.promote",
        "let a version serve, from the daemon's next start or reload",
    ),
    (
        "rollback",
        "streamd.tools.engine.commands.rollback",
        "undo the last promotion, from the daemon's next start or reload",
    ),
    ("gc", "streamd.tools.engine.commands.gc", "remove old versions and what killed builds left behind"),
)
"""Name, module, and a line of help of each subcommand."""

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit statuses of a failure, of wrong usage, and of Ctrl-C (128 and the number of the signal)."""

WHOLE_PATH = """\
from a trained checkpoint to the version that serves, on a machine without a GPU, in one command (extras: build and
train, as pip install 'streamd[build,train]'):
  streamd engine ship engines/patch_tensorrt_20261129_232000 --backend onnxruntime --precision fp32 --why "trained anew"
or step by step, each command giving the version it made to the next (export needs the extra train, the rest build):
  V=$(streamd engine export engines/patch_tensorrt_20261129_232000) && \\
  V=$(streamd engine build --version "$V" --backend onnxruntime --precision fp32) && \\
  streamd engine validate "$V" && streamd engine promote "$(basename "$V")" --why "trained anew"
"""

EXIT_STATUSES = "exit status: 0 done; 1 failed, with the reason on standard error; 2 wrong usage; 130 interrupted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands; the flags of each are known once its module is imported."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    width = max(len(name) for name, _, _ in SUBCOMMANDS)
    listed = "\n".join(f"  {name:{width}}  {text}" for name, _, text in SUBCOMMANDS)
    parser.usage = "%(prog)s [-h] COMMAND ..."
    more = f"`{parser.prog} COMMAND --help` shows its options, with examples."
    parser.epilog = f"commands:\n{listed}\n\n{WHOLE_PATH}\n{more}\n{EXIT_STATUSES}"
    names = [name for name, _, _ in SUBCOMMANDS]
    parser.add_argument("command", nargs=argparse.PARSER, metavar="COMMAND", help=f"one of: {', '.join(names)}")
    parser.set_defaults(engine_parser=parser)


def main(args: argparse.Namespace) -> int:
    """Run a subcommand and return the exit status."""
    name, *rest = args.command
    names = [each for each, _, _ in SUBCOMMANDS]
    if name not in names:
        args.engine_parser.error(f"no command {name!r}; there are: {', '.join(names)}")
    prog = f"{args.engine_parser.prog} {name}"
    _log_to_stderr()
    try:
        return run_subcommand(prog, name, rest)
    except StreamdError as exc:
        _print_error(f"{prog}: {exc}")
        return USAGE if isinstance(exc, ConfigError) else FAILED
    except KeyboardInterrupt:
        _print_error(f"{prog}: interrupted")
        return INTERRUPTED


def run_subcommand(prog: str, name: str, arguments: list[str]) -> int:
    """Run one subcommand by its name and return its exit status. Raises `StreamdError`."""
    module = importlib.import_module({each: path for each, path, _ in SUBCOMMANDS}[name])
    parser = argparse.ArgumentParser(
        prog=prog,
        description=module.DESCRIPTION,
        epilog=f"{module.EXAMPLES}\n{EXIT_STATUSES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    given = parser.parse_args(arguments)
    given.command_line = [*prog.split(), *arguments]
    given.probe = _probe
    status: int = module.main(given)
    return status


def _probe() -> "Machine | None":
    """Return the GPU and the TensorRT of this machine, or None without a usable one."""
    from streamd.tools.engine.plan.library import probe_machine

    return probe_machine()


def _log_to_stderr() -> None:
    """Send logs to standard error: standard output is for results, which programs read."""
    import structlog

    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def _print_error(text: str) -> None:
    print(text, file=sys.stderr)
