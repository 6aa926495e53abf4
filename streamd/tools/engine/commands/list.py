"""`streamd engine list`: show every version, sound or not, and mark the one that serves."""

import argparse

from streamd.tools.engine.commands.common import (
    REFUSED,
    SERVING_ORDER,
    add_common_arguments,
    find_machine,
    open_repository,
    print_answer,
)

DESCRIPTION = f"""\
List the engine versions, the newest first, with their plans, and mark the one that serves.

{SERVING_ORDER}"""

EXAMPLES = """\
examples:
  streamd engine list
  streamd engine list --engines /opt/streamd/engines --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add_common_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the command; the exit status is 1 if no version can serve. Raises `RepositoryError`."""
    from streamd.repository.listing import convert_to_builtins, list_versions
    from streamd.tools.engine.commands.tables import format_versions

    listing = list_versions(open_repository(args), find_machine(args))
    print_answer(args, convert_to_builtins(listing), format_versions(listing))
    return 0 if listing.serving else REFUSED
