"""A live cluster doing real work: three nodes, a durable ingest, vector search, kill -9, a join and a leave."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON at the end")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running (also KEEP=1)")
    parser.add_argument("--dir", metavar="D", help="work here instead of a temporary directory")


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration."""
    from frys_node.demo.main import main

    return main(json_output=arguments.json, keep=arguments.keep, directory=arguments.dir)
