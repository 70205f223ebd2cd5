"""Show who owns what: the epoch, the issuer, a change under way, each member's share, the owner of a key."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import urlencode

from frys_node.cli import arguments as given
from frys_node.cli import factor
from frys_node.cli.admin import AdminClient, add_common, member_names, show, table
from frys_node.cli.terminal import escaped

BAR = 32
"""Characters of a full bar in the picture of shares."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action")
    shown = actions.add_parser("show", help="members, shares and phase (the default)")
    owner = actions.add_parser("owner", help="which nodes hold a cache key, a workflow run or a unit")
    what = owner.add_mutually_exclusive_group(required=True)
    what.add_argument("key", nargs="?", type=given.name, help="a cache key")
    what.add_argument("--run", type=given.name, metavar="ID", help="a workflow run")
    what.add_argument("--unit", type=given.name, metavar="U", help="a unit, such as workflow/17")
    put = actions.add_parser("set", help="have another number of copies of each cache unit, while it serves")
    put.add_argument("--replication-factor", type=int, required=True, help="copies, 1 to 7")
    add_common(parser)
    for sub in (shown, owner, put):
        add_common(sub)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    if arguments.action == "set":
        return factor.change(arguments, client, "")
    if arguments.action == "owner":
        wanted = {"key": arguments.key, "run": arguments.run, "unit": arguments.unit}
        query = urlencode({name: value for name, value in wanted.items() if value is not None})
        body = client.call("GET", f"/v1/ring?{query}")
        owner = escaped(body["owner"])
        text = f"unit {owner['unit']} at epoch {owner['epoch']} ({owner['phase']}): {', '.join(owner['current'])}"
        if owner["next"] != owner["current"]:
            text += f" -> {', '.join(owner['next'])}"
        return show(arguments, body, text)
    body = client.call("GET", "/v1/ring")
    rows = [
        (m["name"], m["weight"], f"{m['share'] * 100:.1f}%", m["units"], "#" * round(m["share"] * BAR))
        for m in body["members"]
    ]
    text = table(rows, ("NAME", "WEIGHT", "SHARE", "UNITS", ""))
    return show(arguments, body, text if arguments.json else "\n".join([*_head(client, body), text]))


def _head(client: AdminClient, ring: dict[str, Any]) -> list[str]:
    """Say which record is in force, who writes it, and what a change under way waits for."""
    topology = escaped(client.call("GET", "/v1/topology"))
    names = escaped(member_names(client))  # a joiner is no member of the ring yet
    issuer = names.get(topology["issuer"], topology["issuer"])
    lines = [f"epoch {ring['epoch']}, {ring['phase']}, {ring['partitions']} partitions, issuer {issuer}"]
    if not topology["issuer_answers"]:
        lines.append(f"{issuer} does not answer: joins, leaves and new collections wait until it is back")
    for line in topology["waits_for"]:
        node, _, reason = line.partition(": ")
        lines.append(f"waits for {names.get(node, node)}: {reason}")
    if topology["queued"]:
        lines.append(f"queued: {', '.join(names.get(node, node) for node in topology['queued'])}")
    return lines
