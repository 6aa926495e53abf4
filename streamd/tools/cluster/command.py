"""Show the nodes and shards of a cluster; drain nodes, and balance shards.

Every action goes to NATS, not to a node: it works while nodes are down, and the nodes see it within a second.
"""

import argparse
import sys
from pathlib import Path

from streamd.core.errors import ConfigError
from streamd.tools.cluster.errors import ClusterCommandError

CLUSTER_EXIT_HELP = """\
exit status: 0 done; 1 NATS does not answer, no such node, or not done in time; 2 wrong usage or settings; 3 (status)
a shard has no node; 130 interrupted"""

EXAMPLES_HELP = """\
examples:
  streamd cluster status --config /etc/streamd/config.toml
  streamd cluster drain web-2 --cluster nats://10.0.0.1:4222,nats://10.0.0.2:4222
  streamd cluster undrain web-2
  streamd cluster rebalance

"""

DRAIN_SECONDS = 120.0

_PLACES = (
    ("--cluster", "nats", "URLS", "servers of NATS, separated by commas [default: the settings]"),
    ("--name", "cluster_name", "NAME", "name of the cluster [default: the settings, or streamd]"),
    ("--credentials", "nats_credentials_file", "FILE", "credentials of a user of NATS [default: the settings]"),
    ("--ca", "nats_ca_file", "FILE", "CAs of the servers' certificates [default: the settings]"),
    ("--certificate", "nats_certificate_file", "FILE", "certificate of this client [default: the settings]"),
    ("--key", "nats_key_file", "FILE", "key of that certificate [default: the settings]"),
)
"""Flag, key of the settings, value and help of what says where the cluster is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands and their options."""
    parser.epilog = f"{EXAMPLES_HELP}{CLUSTER_EXIT_HELP}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="show nodes and shards")
    status.description = "Show the nodes that live, what they have, and the shards without a node."
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument("--shards", action="store_true", help="list each shard with its node and fence, too")
    _add_place(status, "status")
    drain = commands.add_parser("drain", help="move all shards of a node to others")
    drain.description = (
        "Move all shards of a node to others, and give it none until `undrain`. It still takes samples and serves "
        "readers. Stopping a node (SIGTERM) does this by itself; drain it first to take it from service for longer."
    )
    drain.add_argument("node", metavar="NODE", help="name of the node")
    _add_wait(drain)
    _add_place(drain, "drain")
    undrain = commands.add_parser("undrain", help="give a node shards again")
    undrain.description = "Give a node shards again, once no node has come or gone for rebalance_delay_seconds."
    undrain.add_argument("node", metavar="NODE", help="name of the node")
    _add_place(undrain, "undrain")
    rebalance = commands.add_parser("rebalance", help="balance the shards now")
    rebalance.description = (
        "Balance the shards over the nodes now; by themselves they do it rebalance_delay_seconds after a node came or "
        "left."
    )
    _add_wait(rebalance)
    _add_place(rebalance, "rebalance")


def _add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=float,
        default=DRAIN_SECONDS,
        metavar="S",
        help="seconds to wait until it is done; 0 does not wait [default: 120]",
    )


def _add_place(parser: argparse.ArgumentParser, action: str) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings of a node, whose [cluster] names it")
    for flag, key, value, text in _PLACES:
        parser.add_argument(flag, dest=key, metavar=value, help=text)
    parser.set_defaults(action=action, prog=parser.prog)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = CLUSTER_EXIT_HELP


def main(args: argparse.Namespace) -> int:
    """Run a subcommand and return the exit status."""
    from streamd.tools.cluster.actions import run_cluster_action

    try:
        return run_cluster_action(args)
    except (ConfigError, ClusterCommandError) as exc:
        print(f"{args.prog}: {exc}", file=sys.stderr)
        return 2 if isinstance(exc, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
