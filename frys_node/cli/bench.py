"""Run a benchmark scenario beside its peer or a physical limit, with ratio, load and machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from frys_node.base.errors import UsageError

ROUNDS = 5

HELD_MAX = 500_000
"""More would not fit into the cache of a node of the scenario."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios; none lists them")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--rounds", type=int, help="interleaved rounds (default 5; membership has its own, move has none)"
    )
    parser.add_argument(
        "--held",
        metavar="N",
        type=int,
        help="with move: vectors, and as many cache entries, that the node that leaves holds (default 15000)",
    )
    group = parser.add_argument_group("membership", "ours beside serf, in namespaces (root or user namespaces)")
    group.add_argument(
        "--full",
        action="store_true",
        help="every scenario with all its rounds; hours; needs --out. With move and snapshot: 100,000 items of a kind",
    )
    group.add_argument("--out", metavar="FILE", type=Path, help="keep every round here; a later run goes on from it")
    group.add_argument("--only", metavar="A,B", help="only these scenarios, or those that begin so (kill,leave)")
    group.add_argument(
        "--side", choices=("ours", "serf", "both"), default="both", help="which to measure (default both)"
    )
    group.add_argument("--seed", type=int, default=1, help="of victims, orders and the relay (default 1)")


def run(arguments: argparse.Namespace) -> int:
    """Run the scenarios."""
    from frys_node.bench.bytecode import bytecode_is_kept

    _check(arguments)
    with bytecode_is_kept():
        return _measure(arguments)


def _check(arguments: argparse.Namespace) -> None:
    if "membership" in arguments.names and arguments.names != ["membership"]:
        raise UsageError("membership runs alone", hint="its clusters would be measured by the other scenarios")
    if arguments.held is not None and "move" not in arguments.names:
        raise UsageError("--held is about move", hint="frys-node bench move --held 100000")
    if arguments.held is not None and not 1 <= arguments.held <= HELD_MAX:
        raise UsageError(f"--held {arguments.held} is not between 1 and {HELD_MAX:,}")


def _measure(arguments: argparse.Namespace) -> int:
    if "membership" in arguments.names:
        from frys_node.bench import membership

        return membership.main(arguments)
    from frys_node.bench.runner import Options, main

    options = Options(arguments.rounds or ROUNDS, arguments.full, arguments.held)
    return main(arguments.names, options, json_output=arguments.json)
