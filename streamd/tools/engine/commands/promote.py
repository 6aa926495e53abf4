"""`streamd engine promote`: let a version serve from the daemon's next start or reload."""

import argparse
import time

from streamd.tools.engine.commands.common import (
    SERVING_ORDER,
    add_common_arguments,
    add_record_arguments,
    add_version_argument,
    find_version_name,
    locate_version,
    name_author,
    open_repository,
    print_promotion,
)

DESCRIPTION = f"""\
Let a version serve from the daemon's next start or reload.

A version is refused if it is not sound or if its accuracy gate refused it. A promotion is one atomic change of
promoted.json, which records author, time and reason; `streamd engine rollback` undoes it. A version given by its folder
is promoted in the folder that it lies in, from which the daemon must serve; --engines or STREAMD_ENGINES must not name
another folder.

{SERVING_ORDER}"""

EXAMPLES = """\
examples:
  streamd engine promote patch_tensorrt_20261129_232000 --why "a tenth less pinball loss on last week"
  streamd engine promote /opt/streamd/engines/patch_tensorrt_20261129_232000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add_version_argument(parser)
    add_record_arguments(parser)
    add_common_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the command. Raises `RepositoryError`."""
    from streamd.repository.promotion import Promoter

    record = Promoter(open_repository(args)).promote(find_version_name(args), name_author(args), args.why, time.time())
    root, version = locate_version(args)
    where = "" if root == args.engines else f" in {root}"
    return print_promotion(args, record, f"promoted {version}{where}")
