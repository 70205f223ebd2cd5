"""Start a node that joins a running cluster: `frys-node join --seed host:port`.

The token is taken from --token-file, FRYS_TOKEN, ~/.config/frys/token, or from a node of the same cluster that this
user runs on this machine. A directory that already belongs to the cluster is simply started again.
"""

from __future__ import annotations

import argparse

from frys_node.cli import launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--seed", metavar="H:P", action="append", required=True, help="a member of the cluster; repeatable"
    )
    parser.add_argument("--token-file", metavar="FILE", help="file with the join token; '-' reads standard input")
    launch.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Join and run the node."""
    return launch.run(arguments, seeds=arguments.seed, token_file=arguments.token_file)
