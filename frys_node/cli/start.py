"""Start the first node of a cluster, or restart a node from its data directory.

The first start creates the cluster: its authority, this node's certificate, an admin token and a join token that
works for 24 hours. The exact line for the next machine is printed.
"""

from __future__ import annotations

import argparse

from frys_node.cli import launch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    launch.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the node."""
    return launch.run(arguments, seeds=None, token_file=None)
