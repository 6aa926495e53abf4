"""Report which series of captured bodies become which features, and why the others do not.

The command `streamd mapping check`.
"""

import argparse
import json
import sys
import time
from pathlib import Path

EXIT_MAPPED, EXIT_NOTHING, EXIT_USAGE = 0, 1, 2

_HELP = """\
FILE is the body of a request as an agent sent it, compressed or not. If NAME.json lies beside NAME.body, it gives the
path, the query and the headers of the request (as {"path": .., "query": .., "headers": [[name, value], ..]}). Several
files count as sent one after the other: a counter needs two points. Points without a time get the present time. An
exporter's answer to a scrape and the text of `promtool tsdb dump` can be checked too. The features and the step are
those of the models that ship.

example: streamd mapping check --config config.toml rates-1.body rates-2.body

exit status: 0 if a series was mapped, 1 if none was, 2 if a file cannot be read or the usage or settings are wrong"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands and their options."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="show which features the series of captured bodies become",
        description="Show which features the series of captured bodies become.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("files", type=Path, nargs="+", metavar="FILE", help="captured body, raw")
    check.add_argument(
        "--protocol", metavar="NAME", help="format of the bodies [default: by path, headers and content]"
    )
    check.add_argument("--config", type=Path, metavar="FILE", help="settings with [mapping] [default: built-in rules]")
    check.add_argument("--json", action="store_true", help="print JSON, with all series and servers")
    check.add_argument("--all", action="store_true", help="show all series and servers, however many")
    check.set_defaults(check_parser=check)


def main(args: argparse.Namespace) -> int:
    """Check the files and print the report; returns the exit status. Raises `ConfigError`."""
    from streamd.tools.captures.errors import CaptureError
    from streamd.tools.captures.formats import CAPTURE_FORMATS
    from streamd.tools.mapping.check import check_captures, read_mapping_settings

    if args.protocol is not None and args.protocol not in CAPTURE_FORMATS:
        args.check_parser.error(f"--protocol {args.protocol}: expected one of {', '.join(CAPTURE_FORMATS)}")
    settings = read_mapping_settings(args.config)
    try:
        report = check_captures(args.files, settings=settings, format_name=args.protocol, now=time.time())
    except CaptureError as exc:
        print(f"{args.check_parser.prog}: {exc}", file=sys.stderr)
        return EXIT_USAGE
    if args.json:
        print(json.dumps(report.build_object(), indent=2))
    else:
        print("\n".join(report.format_lines(is_all=args.all)))
    return EXIT_MAPPED if report.sink.servers else EXIT_NOTHING
