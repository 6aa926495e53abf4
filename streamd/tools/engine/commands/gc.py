"""`streamd engine gc`: remove old versions and what killed builds left behind."""

import argparse
import time

from streamd.tools.engine.commands.common import REFUSED, add_common_arguments, open_repository, print_answer

DESCRIPTION = """\
Remove old engine versions, and what killed builds and removals left behind.

These always stay: the newest, the promoted one and the one before it, the one that would serve if nothing were
promoted, each version marked as the default, each that a daemon holds, and every folder that is not a sound version:
remove such a folder yourself. A version is removed whole: first its name, then its files.
"""

EXAMPLES = """\
examples:
  streamd engine gc --dry-run
  streamd engine gc --keep 5 --in-use tft_tensorrt_20261129_232100
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    parser.add_argument(
        "--keep", type=_parse_positive, default=3, metavar="N", help="number of newest versions to keep [default: 3]"
    )
    parser.add_argument(
        "--in-use", action="append", default=[], metavar="VERSION", help="a version to keep; may be given several times"
    )
    parser.add_argument("--dry-run", action="store_true", help="a report only; nothing is removed")
    add_common_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the command; the exit status is 1 if a removal failed. Raises `RepositoryError`."""
    import msgspec

    from streamd.repository.collection import collect_garbage
    from streamd.tools.engine.commands.tables import format_collection

    done = collect_garbage(open_repository(args), args.keep, now=time.time(), in_use=args.in_use, dry_run=args.dry_run)
    print_answer(args, {**msgspec.to_builtins(done), "freed_bytes": done.freed_bytes}, format_collection(done))
    return REFUSED if done.failed else 0


def _parse_positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)
