"""Show who owns what: the epoch, the phase of a change under way, each member's share, the owner of a key."""

from __future__ import annotations

import argparse
from urllib.parse import quote

from frys_node.cli.admin import AdminClient, add_common, show, table

BAR = 32
"""Characters of a full bar in the picture of shares."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action")
    shown = actions.add_parser("show", help="members, shares and phase (the default)")
    owner = actions.add_parser("owner", help="which nodes hold a cache key or a unit")
    owner.add_argument("key", help="a cache key, or a unit such as workflow/17")
    add_common(parser)
    for sub in (shown, owner):
        add_common(sub)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    if arguments.action == "owner":
        body = client.call("GET", f"/v1/ring?key={quote(arguments.key, safe='')}")
        owner = body["owner"]
        text = f"unit {owner['unit']} at epoch {owner['epoch']} ({owner['phase']}): {', '.join(owner['current'])}"
        if owner["next"] != owner["current"]:
            text += f" -> {', '.join(owner['next'])}"
        return show(arguments, body, text)
    body = client.call("GET", "/v1/ring")
    rows = [
        (m["name"], m["weight"], f"{m['share'] * 100:.1f}%", m["units"], "#" * round(m["share"] * BAR))
        for m in body["members"]
    ]
    lines = [f"epoch {body['epoch']}, {body['phase']}, {body['partitions']} partitions"]
    if body.get("step"):
        lines.append(f"step: {body['step']}")
    return show(arguments, body, "\n".join([*lines, table(rows, ("NAME", "WEIGHT", "SHARE", "UNITS", ""))]))
