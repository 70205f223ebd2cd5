"""Has a person type what is about to be given up, so that nobody gives up anything by habit."""

from __future__ import annotations

import argparse
import sys

from frys_node.base.errors import UsageError
from frys_node.cli.terminal import printable


def add_yes(parser: argparse.ArgumentParser, what: str = "do not ask to type it") -> None:
    """Add ``--yes``."""
    parser.add_argument("--yes", action="store_true", help=what)


def must_type(arguments: argparse.Namespace, warning: str, expected: str) -> None:
    """Print a warning and read a line, which must be what is expected; ``--yes`` stands for it.

    Raises:
        UsageError: Something else was typed, or there is nobody to type. Nothing was asked of the node.
    """
    if arguments.yes:
        return
    print(printable(warning), file=sys.stderr)
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to confirm it; nothing was done", hint="run it by hand, or add --yes")
    print(f"type '{printable(expected)}' to go on: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != expected:
        raise UsageError("not confirmed; nothing was done", hint=f"type exactly: {printable(expected)}")
