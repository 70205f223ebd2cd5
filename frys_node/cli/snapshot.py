"""Save, verify and restore a node's units, and watch units that move between nodes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from urllib.parse import quote

from frys_node.cli import arguments as given
from frys_node.cli import moves
from frys_node.cli.admin import AdminClient, add_common, bytes_text, show, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="save this node's units under a name")
    verify = actions.add_parser("verify", help="read a snapshot back and check every byte")
    restore = actions.add_parser(
        "restore",
        help="bring a snapshot's units back into the node",
        description="Vectors and cache entries are merged: what is newer, deletions included, stands. Workflow "
        "partitions are replaced: runs started since the snapshot are lost, and those that went on go back.",
    )
    delete = actions.add_parser("delete", help="delete a saved snapshot")
    listing = actions.add_parser("list", help="list saved snapshots")
    moving = actions.add_parser(
        "moves", help="units on their way between nodes, with rate, ETA and what holds them back"
    )
    for sub in (create, verify, restore, delete):
        sub.add_argument("name", type=given.name)
    for sub in (create, restore):
        sub.add_argument("--unit", action="append", help="only this unit, such as workflow/17; repeatable")
    restore.add_argument("--replace", action="store_true", help="also replace workflow partitions")
    for sub in (create, verify, restore, delete, listing):
        sub.add_argument(
            "--directory", metavar="D", default="", help="where snapshots are (default: in the data directory)"
        )
        add_common(sub)
    moves.add_arguments(moving)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    if arguments.action == "moves":
        return moves.run(client, arguments)
    directory = str(Path(arguments.directory).resolve()) if arguments.directory else ""
    if arguments.action == "list":
        body = client.call("GET", f"/v1/snapshots?directory={quote(directory, safe='')}")
        rows = [
            (s["name"], len(s["units"]), bytes_text(sum(u["size_bytes"] for u in s["units"])))
            for s in body["snapshots"]
        ]
        return show(arguments, body, table(rows, ("NAME", "UNITS", "SIZE")))
    if arguments.action == "delete":
        path = f"/v1/snapshots/{quote(arguments.name, safe='')}?directory={quote(directory, safe='')}"
        return show(arguments, client.call("DELETE", path), f"deleted {arguments.name}")
    wanted: dict[str, Any] = {"name": arguments.name, "directory": directory}
    if getattr(arguments, "unit", None):
        wanted["units"] = arguments.unit
    if arguments.action == "create":
        body = client.call("POST", "/v1/snapshots", wanted)
        size = bytes_text(sum(unit["size_bytes"] for unit in body["units"]))
        return show(arguments, body, f"saved {arguments.name}: {len(body['units'])} units, {size}")
    if arguments.action == "restore":
        body = client.call("POST", "/v1/snapshots/restore", wanted | {"replace": arguments.replace})
        text = f"restored {arguments.name}: {body['units']} units, {bytes_text(body['size_bytes'])}"
        if body["elsewhere"]:
            text += f"\nheld by other nodes now, and left alone: {len(body['elsewhere'])} units"
        return show(arguments, body, text)
    body = client.call("POST", "/v1/snapshots/verify", wanted)
    good = (
        f"{arguments.name} is whole: {body['units']} units, {body['chunks']} chunks, {bytes_text(body['size_bytes'])}"
    )
    show(arguments, body, "\n".join(body["problems"]) or good)
    return 1 if body["problems"] else 0
