"""Run a benchmark scenario beside its peer or a physical limit, with ratio, load and machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from frys_node.base.errors import UsageError

ROUNDS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios; none lists them")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 5; membership has its own)")
    group = parser.add_argument_group("membership", "ours beside serf, in namespaces (root or user namespaces)")
    group.add_argument(
        "--full",
        action="store_true",
        help="every scenario with all its rounds; hours; needs --out. With snapshot: 100,000 items of a kind",
    )
    group.add_argument("--out", metavar="FILE", type=Path, help="keep every round here; a later run goes on from it")
    group.add_argument("--only", metavar="A,B", help="only these scenarios, or those that begin so (kill,leave)")
    group.add_argument(
        "--side", choices=("ours", "serf", "both"), default="both", help="which to measure (default both)"
    )
    group.add_argument("--seed", type=int, default=1, help="of victims, orders and the relay (default 1)")


def run(arguments: argparse.Namespace) -> int:
    """Run the scenarios."""
    if "membership" in arguments.names:
        from frys_node.bench import membership

        if arguments.names != ["membership"]:
            raise UsageError("membership runs alone", hint="its clusters would be measured by the other scenarios")
        return membership.main(arguments)
    from frys_node.bench.runner import main

    rounds = arguments.rounds or ROUNDS
    return main(arguments.names, json_output=arguments.json, rounds=rounds, is_full=arguments.full)
