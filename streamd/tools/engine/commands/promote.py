"""`streamd engine promote`: let a version serve from the daemon's next start or reload."""

import argparse
import time

from streamd.tools.engine.commands.common import (
    ORDER,
    add_common,
    add_record,
    add_version,
    place_of,
    repository_of,
    say_record,
    version_of,
    who_of,
)

DESCRIPTION = f"""\
Let a version serve from the daemon's next start or reload.

Refused for a version that is not sound or that its accuracy gate refused. It is one atomic change of promoted.json,
which keeps who, when and why; `streamd engine rollback` undoes it. A version given by its folder is promoted in the
folder that it lies in: the daemon must serve from there. It is refused where --engines or STREAMD_ENGINES name another.

{ORDER}"""

EXAMPLES = """\
examples:
  streamd engine promote patch_tensorrt_20261121_160844 --why "a tenth less pinball loss on last week"
  streamd engine promote /opt/streamd/engines/patch_tensorrt_20261121_160844
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add_version(parser)
    add_record(parser)
    add_common(parser)


def main(args: argparse.Namespace) -> int:
    """Run the command. Raises `RepositoryError`."""
    from streamd.repository.promotion import Promoter

    record = Promoter(repository_of(args)).promote(version_of(args), who_of(args), args.why, time.time())
    root, version = place_of(args)
    where = "" if root == args.engines else f" in {root}"
    return say_record(args, record, f"promoted {version}{where}")
