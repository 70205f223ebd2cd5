"""Show the settings in force, and with --origin where each came from (default, file, environment, flag)."""

from __future__ import annotations

import argparse

from frys_node.cli.admin import AdminClient, add_common, show, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", required=True)
    shown = actions.add_parser("show", help="print every setting")
    shown.add_argument("--origin", action="store_true", help="also say where each value came from")
    add_common(shown)


def run(arguments: argparse.Namespace) -> int:
    """Print the settings."""
    body = AdminClient(arguments).call("GET", "/v1/config")
    header = ("KEY", "VALUE", "ORIGIN") if arguments.origin else ("KEY", "VALUE")
    rows = [(s["key"], s["value"], s["origin"])[: len(header)] for s in body["settings"]]
    return show(arguments, body, table(rows, header))
