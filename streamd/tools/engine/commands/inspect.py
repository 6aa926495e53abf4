"""`streamd engine inspect`: show all that is known of one version, after reading its plans' files."""

import argparse

from streamd.tools.engine.commands.common import (
    REFUSED,
    SERVING_ORDER,
    add_common_arguments,
    add_version_argument,
    find_machine,
    find_version_name,
    open_repository,
    print_answer,
)

DESCRIPTION = f"""\
Check one engine version and its plans' files, and show all that is known of it.

{SERVING_ORDER}"""

EXAMPLES = """\
examples:
  streamd engine inspect patch_tensorrt_20261129_232000
  streamd engine inspect patch_tensorrt_20261129_232000 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add_version_argument(parser)
    add_common_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the command; the exit status is 1 if the version is refused. Raises `RepositoryError`."""
    from streamd.repository.listing import convert_to_builtins, inspect_version
    from streamd.tools.engine.commands.tables import format_version

    entry = inspect_version(open_repository(args), find_version_name(args), find_machine(args))
    print_answer(args, convert_to_builtins(entry), format_version(entry))
    return REFUSED if entry.refused else 0
