"""``frys-node node revoke``: expels a node at once, and says who refuses it and has the key that it never gets."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import quote

from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common, show
from frys_node.cli.confirm import add_yes, must_type
from frys_node.cli.terminal import escaped

FAILED = 1

LOSS = (
    "{name} is expelled for good: its connections end everywhere, its certificate counts no more, and the gossip keys"
    " are changed at once. It can only come back as a new node. What it holds stays assigned to it until `node remove`"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("node", type=given.name, metavar="NODE", help="the node's name or id")
    text = "also if the node was given the key of the cluster's authority (frys-node ca rotate takes that from it)"
    parser.add_argument("--holds-authority", action="store_true", help=text)
    add_yes(parser)
    add_common(parser)


def run(arguments: argparse.Namespace, client: AdminClient) -> int:
    """Ask for the expulsion and show how far it has come."""
    path = f"/v1/members/{quote(arguments.node, safe='')}/revoke"
    before = client.call("GET", path)
    if not before["is_expelled"]:
        must_type(arguments, LOSS.format(name=before["name"]), before["name"])
    wanted = {"holds_authority": True} if arguments.holds_authority else None
    body = client.call("POST", path, wanted)
    show(arguments, body, "\n".join(_lines(escaped(body))))
    return FAILED if _behind(body) else 0


def _behind(body: dict[str, Any]) -> list[str]:
    """Return the names of members that do not refuse it yet, or do not seal with the new key."""
    return [
        member["name"]
        for member in body["members"]
        if member["error"] or member["primary"] != body["epoch"] or not member["refuses"]
    ]


def _lines(body: dict[str, Any]) -> list[str]:
    name, total = body["name"], body["total"]
    what = "is expelled" if body["is_new"] else "was expelled before"
    lines = [
        f"{name} {what} ({body['id']})",
        f"  refused by {body['refusing']}/{total} members",
        f"  new gossip key, epoch {body['epoch']}: {body['converged']}/{total} seal with it ({body['took_s']:.1f} s)",
    ]
    if behind := _behind(body):
        lines.append(f"  behind: {', '.join(behind)} (they learn it with their next connection; ask again: keys list)")
    if body["dead"]:
        lines.append(f"  dead, not counted: {', '.join(body['dead'])} (they learn it when they come back)")
    if body["is_on_ring"]:
        lines.append(f"  it keeps its place on the ring until you take it away: frys-node node remove {name}")
    lines += [f"  {warning}" for warning in body["warnings"]]
    return lines
