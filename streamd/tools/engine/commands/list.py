"""`streamd engine list`: every version, sound or not, and which one serves."""

import argparse

from streamd.tools.engine.commands.common import ORDER, REFUSED, add_common, machine_of, repository_of, say

DESCRIPTION = f"""\
List the engine versions, the newest first, with their plans, and mark the one that serves.

{ORDER}"""

EXAMPLES = """\
examples:
  streamd engine list
  streamd engine list --engines /opt/streamd/engines --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add_common(parser)


def main(args: argparse.Namespace) -> int:
    """Run the command; 1 where no version can serve. Raises `RepositoryError`."""
    from streamd.repository.listing import list_versions, to_builtins
    from streamd.tools.engine.commands.tables import version_table

    listing = list_versions(repository_of(args), machine_of(args))
    say(args, to_builtins(listing), version_table(listing))
    return 0 if listing.serving else REFUSED
