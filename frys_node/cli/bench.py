"""Run a benchmark scenario beside its peer or a physical limit, with ratio, load and machine."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios; none lists them")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")


def run(arguments: argparse.Namespace) -> int:
    """Run the scenarios."""
    from frys_node.bench.runner import main

    return main(arguments.names, json_output=arguments.json, rounds=arguments.rounds)
