"""Push what an agent printed to a daemon.

Each format is one module with `DESCRIPTION`, `add_arguments(parser)` and `main(args)`, imported only when it is named.
"""

import argparse
import importlib
import sys

from streamd.core.errors import ConfigError, StreamdError
from streamd.tools.ingest.errors import PushError

INGEST_FORMATS: tuple[tuple[str, str, str], ...] = (
    ("pcp2json", "streamd.tools.ingest.pcp2json", "the output of Performance Co-Pilot's pcp2json"),
)
"""Name, module, and a line of help of each format."""

EXIT_STATUS_LINE = (
    "exit status: 0 all was pushed; 1 the daemon is away or refuses, or a document is not complete; "
    "2 wrong usage; 130 interrupted"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the formats; the flags of each are known once its module is imported."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "%(prog)s [-h] FORMAT ..."
    width = max(len(name) for name, _, _ in INGEST_FORMATS)
    listed = "\n".join(f"  {name:{width}}  {text}" for name, _, text in INGEST_FORMATS)
    parser.epilog = f"formats:\n{listed}\n\n`{parser.prog} FORMAT --help` shows its options.\n{EXIT_STATUS_LINE}"
    names = ", ".join(name for name, _, _ in INGEST_FORMATS)
    parser.add_argument("format", nargs=argparse.PARSER, metavar="FORMAT", help=f"one of: {names}")
    parser.set_defaults(ingest_parser=parser)


def main(args: argparse.Namespace) -> int:
    """Push one input and return the exit status."""
    name, *rest = args.format
    modules = {each: module for each, module, _ in INGEST_FORMATS}
    if name not in modules:
        args.ingest_parser.error(f"no format {name!r}; there are: {', '.join(modules)}")
    module = importlib.import_module(modules[name])
    parser = argparse.ArgumentParser(
        prog=f"{args.ingest_parser.prog} {name}", description=module.DESCRIPTION, epilog=EXIT_STATUS_LINE
    )
    module.add_arguments(parser)
    try:
        status: int = module.main(parser.parse_args(rest))
    except (StreamdError, PushError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    return status
