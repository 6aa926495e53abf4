"""`streamd engine gc`: remove old versions and what killed builds left."""

import argparse
import time

from streamd.tools.engine.commands.common import REFUSED, add_common_arguments, open_repository, print_answer

DESCRIPTION = """\
Remove old engine versions, and what killed builds and removals left behind.

Always stays: the newest, what is promoted and what was before it, what would serve were nothing promoted, each version
marked as the default, each that a daemon holds, and every folder that is not a sound version: remove that yourself.
A version goes whole: first its name, then its files.
"""

EXAMPLES = """\
examples:
  streamd engine gc --dry-run
  streamd engine gc --keep 5 --in-use tft_tensorrt_20261121_160858
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument("--keep", type=_at_least_one, default=3, metavar="N", help="how many of the newest stay (3)")
    parser.add_argument(
        "--in-use", action="append", default=[], metavar="VERSION", help="this one stays too; may be given again"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    add_common_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the command; 1 where something that was to go did not. Raises `RepositoryError`."""
    import msgspec

    from streamd.repository.collection import collect_garbage
    from streamd.tools.engine.commands.tables import format_collection

    done = collect_garbage(open_repository(args), args.keep, now=time.time(), in_use=args.in_use, dry_run=args.dry_run)
    print_answer(args, {**msgspec.to_builtins(done), "freed_bytes": done.freed_bytes}, format_collection(done))
    return REFUSED if done.failed else 0


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)
