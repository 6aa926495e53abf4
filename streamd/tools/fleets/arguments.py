"""Options of commands that read fleets. Imports nothing heavy, so that `--help` is quick."""

import argparse


def add_map_argument(group: argparse._ArgumentGroup) -> None:
    """Add the option whose entries `readers.parse_mapping` reads."""
    group.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="FEATURE=[FACTOR*]COLUMN",
        help="column of a feature, with a factor for its unit; may be repeated [default: columns named as features]",
    )
