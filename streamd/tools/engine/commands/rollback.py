"""`streamd engine rollback`: undo the last promotion."""

import argparse
import time

from streamd.tools.engine.commands.common import (
    SERVING_ORDER,
    add_common_arguments,
    add_record_arguments,
    name_author,
    open_repository,
    print_promotion,
)

DESCRIPTION = f"""\
Undo the last promotion: the previously promoted version serves again, from the daemon's next start or reload.

If there was no earlier promotion, the default version serves, or the newest. A second rollback undoes the promotion
before, and so on. To go forward again, promote. Versions that are removed or refused by now are passed over.

{SERVING_ORDER}"""

EXAMPLES = """\
examples:
  streamd engine rollback --why "forecasts of net_out are too low"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's flags."""
    add_record_arguments(parser)
    add_common_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run the command. Raises `RepositoryError`."""
    from streamd.repository.promotion import Promoter

    record = Promoter(open_repository(args)).rollback(name_author(args), args.why, time.time())
    return print_promotion(args, record, f"rolled back from {record.history[-1].from_}")
