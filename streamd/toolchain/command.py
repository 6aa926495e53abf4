"""Make, check and keep engine versions.

Each subcommand is one module with `DESCRIPTION`, `add_arguments(parser)` and `main(args)`, imported when it is
named; adding one is a line in `SUBCOMMANDS`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import TYPE_CHECKING

from streamd.core.errors import ConfigError, StreamdError

if TYPE_CHECKING:  # so that --help loads nothing
    from streamd.repository.plans import Machine

SUBCOMMANDS: tuple[tuple[str, str, str], ...] = (
    ("build", "streamd.toolchain.build", "build TensorRT plans of an ONNX model or an engine version (extra: build)"),
    ("list", "streamd.repository.commands.list", "list the versions, and say which one serves"),
    ("inspect", "streamd.repository.commands.inspect", "check one version and tell all that is known of it"),
    ("promote", "streamd.repository.commands.promote", "let a version serve from the next start"),
    ("rollback", "streamd.repository.commands.rollback", "undo the last promotion"),
    ("gc", "streamd.repository.commands.gc", "remove old versions and what killed builds left"),
)
"""Name, module, what it does."""

FAILED, USAGE, INTERRUPTED = 1, 2, 130

EXIT_STATUSES = "exit status: 0 done; 1 failed, with the reason on standard error; 2 wrong usage; 130 interrupted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands; their own flags are known once they are imported."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    width = max(len(name) for name, _, _ in SUBCOMMANDS)
    listed = "\n".join(f"  {name:{width}}  {text}" for name, _, text in SUBCOMMANDS)
    parser.usage = "%(prog)s [-h] COMMAND ..."
    parser.epilog = f"commands:\n{listed}\n\n`{parser.prog} COMMAND --help` tells more, with examples.\n{EXIT_STATUSES}"
    names = [name for name, _, _ in SUBCOMMANDS]
    parser.add_argument("command", nargs=argparse.PARSER, metavar="COMMAND", help=f"one of: {', '.join(names)}")
    parser.set_defaults(engine_parser=parser)


def main(args: argparse.Namespace) -> int:
    """Run a subcommand; returns the exit status."""
    name, *rest = args.command
    modules = {each: module for each, module, _ in SUBCOMMANDS}
    if name not in modules:
        args.engine_parser.error(f"no command {name!r}; there are: {', '.join(modules)}")
    module = importlib.import_module(modules[name])
    parser = argparse.ArgumentParser(
        prog=f"{args.engine_parser.prog} {name}",
        description=module.DESCRIPTION,
        epilog=f"{module.EXAMPLES}\n{EXIT_STATUSES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    given = parser.parse_args(rest)
    given.command_line = [*parser.prog.split(), *rest]
    given.probe = _probe
    try:
        status: int = module.main(given)
    except StreamdError as exc:
        _say(f"{parser.prog}: {exc}")
        return USAGE if isinstance(exc, ConfigError) else FAILED
    except KeyboardInterrupt:
        _say(f"{parser.prog}: interrupted")
        return INTERRUPTED
    return status


def _probe() -> Machine | None:
    from streamd.toolchain.library import probe_machine

    return probe_machine()


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - a terminal program
