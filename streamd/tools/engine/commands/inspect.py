"""`streamd engine inspect`: all that is known of one version, its plans' files read through."""

import argparse

from streamd.tools.engine.commands.common import (
    ORDER,
    REFUSED,
    add_common,
    add_version,
    machine_of,
    repository_of,
    say,
    version_of,
)

DESCRIPTION = f"""\
Check one engine version and its plans' files, and tell all that is known of it.

{ORDER}"""

EXAMPLES = """\
examples:
  streamd engine inspect patch_tensorrt_20261121_160844
  streamd engine inspect patch_tensorrt_20261121_160844 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add_version(parser)
    add_common(parser)


def main(args: argparse.Namespace) -> int:
    """Run the command; 1 where the version is refused. Raises `RepositoryError`."""
    from streamd.repository.listing import inspect_version, to_builtins
    from streamd.tools.engine.commands.tables import page

    entry = inspect_version(repository_of(args), version_of(args), machine_of(args))
    say(args, to_builtins(entry), page(entry))
    return REFUSED if entry.refused else 0
