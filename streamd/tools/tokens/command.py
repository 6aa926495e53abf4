"""Create, list and revoke the tokens of callers.

A token permits calls of some scopes (ingest, subscribe, predict, read, admin), each for some servers. The daemon reads
their file at start and again when it changes; the file has hashes, never a token.
"""

import argparse
import math
import sys
from pathlib import Path

from streamd.core.errors import ConfigError
from streamd.tools.tokens.errors import TokenCommandError

EXIT_STATUS_HELP = """\
exit status: 0 done; 1 the file cannot be read or written, or has no such token; 2 wrong usage, settings or content of
the file; 130 interrupted"""

CREATE_HELP = """\
The token is printed on standard output, once: it is not stored. A scope without servers counts for all of them. Globs
are those of a shell (*, ?, [...]); a scope may be given several times, with one glob each.

examples:
  streamd token create web-agents --scope 'ingest=web-*' --rows-per-second 100 --config /etc/streamd/config.toml
  streamd token create grafana --scope read --scope subscribe --expires 2027-12-31 --file tokens.json
  streamd token create agent-7 --scope ingest=db-07 --certificate agent-7.example.org --file tokens.json

"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands and their options."""
    parser.epilog = EXIT_STATUS_HELP
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_create(commands.add_parser("create", help="create a token and print it"))
    listing = commands.add_parser("list", help="list the tokens, without secrets")
    listing.description = "List the tokens: names, scopes, limits and times. Their secrets are nowhere stored."
    listing.add_argument("--json", action="store_true", help="print JSON")
    _add_place(listing, "list")
    revoke = commands.add_parser("revoke", help="remove a token")
    revoke.description = "Remove a token. A daemon that runs refuses it, and ends its connections, within seconds."
    revoke.add_argument("name", metavar="NAME", help="name of the token")
    _add_place(revoke, "revoke")


def _add_create(parser: argparse.ArgumentParser) -> None:
    parser.description = "Create a token and add it to the tokens file, which is created if it does not exist."
    parser.add_argument("name", metavar="NAME", help="name of the caller, shown in logs and errors")
    parser.add_argument(
        "--scope",
        action="append",
        required=True,
        metavar="SCOPE[=GLOB]",
        help="ingest, subscribe, predict, read or admin, and the servers it counts for [default: all]; repeatable",
    )
    parser.add_argument(
        "--rows-per-second", type=_parse_rate, metavar="N", help="rows that it may send [default: no limit]"
    )
    parser.add_argument(
        "--max-sockets", type=int, metavar="N", help="sockets that it may have open [default: no limit]"
    )
    parser.add_argument("--max-servers", type=int, metavar="N", help="servers that it may write [default: no limit]")
    parser.add_argument("--expires", metavar="DATE", help="end of validity, as 2027-12-31 or RFC 3339 [default: never]")
    parser.add_argument(
        "--certificate",
        metavar="NAME",
        help="recognize the caller by this name in its client certificate instead of by a token (tls_client_ca)",
    )
    _add_place(parser, "create")
    parser.epilog = f"{CREATE_HELP}{EXIT_STATUS_HELP}"


def _add_place(parser: argparse.ArgumentParser, action: str) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--file", type=Path, metavar="FILE", help="the tokens file")
    place.add_argument(
        "--config", type=Path, metavar="FILE", help="settings of the daemon, which name it (tokens_file)"
    )
    parser.set_defaults(action=action, prog=parser.prog)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXIT_STATUS_HELP


def _parse_rate(text: str) -> float:
    """Return a finite number: JSON has no other ones, and would store no limit instead."""
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not math.isfinite(rate):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return rate


def main(args: argparse.Namespace) -> int:
    """Run a subcommand and return the exit status."""
    from streamd.tools.tokens.actions import run_token_action

    try:
        run_token_action(args)
    except (ConfigError, TokenCommandError) as exc:
        print(f"{args.prog}: {exc}", file=sys.stderr)
        return 2 if isinstance(exc, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    return 0
