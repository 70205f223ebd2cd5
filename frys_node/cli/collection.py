"""Manage vector collections. Points are written and queried over HTTP, with any Qdrant client."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import quote

from frys_node.base.errors import NotFound
from frys_node.cli import arguments as given
from frys_node.cli import factor
from frys_node.cli.admin import AdminClient, add_common, show, table
from frys_node.cli.terminal import escaped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", required=True)
    add_common(actions.add_parser("list", help="list collections"))
    info = actions.add_parser("info", help="show one collection")
    count = actions.add_parser("count", help="count its points exactly")
    delete = actions.add_parser("delete", help="delete a collection and its points")
    create = actions.add_parser("create", help="create a collection")
    update = actions.add_parser("update", help="have another number of copies of each point, while it serves")
    for sub in (info, count, delete, create, update):
        sub.add_argument("name", type=given.name)
        add_common(sub)
    create.add_argument("--dimension", type=int, required=True, help="length of the vectors")
    create.add_argument("--distance", default="Cosine", choices=["Cosine", "Dot", "Euclid", "Manhattan"])
    create.add_argument("--shards", type=int, help="shards on the ring (default 4)")
    create.add_argument("--replication-factor", type=int, help="copies of each point (default 3)")
    update.add_argument("--replication-factor", type=int, required=True, help="copies of each point, 1 to 7")


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    if arguments.action == "list":
        body = client.call("GET", "/collections")
        rows = [(c["name"],) for c in body["result"]["collections"]]
        return show(arguments, body, table(rows, ("NAME",)))
    if arguments.action == "update":
        return factor.change(arguments, client, arguments.name)
    path = f"/collections/{quote(arguments.name, safe='')}"
    if arguments.action == "create":
        wanted: dict[str, object] = {"vectors": {"size": arguments.dimension, "distance": arguments.distance}}
        if arguments.shards is not None:
            wanted["shard_number"] = arguments.shards
        if arguments.replication_factor is not None:
            wanted["replication_factor"] = arguments.replication_factor
        body = client.call("PUT", path, wanted)
        return show(arguments, body, f"created {arguments.name}")
    if arguments.action == "delete":
        body = client.call("DELETE", path)
        if not body["result"]:
            raise NotFound(f"there is no collection {arguments.name}", hint="`frys-node collection list` shows them")
        return show(arguments, body, f"deleted {arguments.name}")
    if arguments.action == "count":
        body = client.call("POST", f"{path}/points/count", {"exact": True})
        return show(arguments, body, str(body["result"]["count"]))
    body = client.call("GET", path)
    return show(arguments, body, _info(arguments.name, body["result"]))


def _info(name: str, result: dict[str, Any]) -> str:
    """Describe a collection for people."""
    name, result = escaped(name), escaped(result)
    params = result["config"]["params"]
    vectors = params["vectors"]
    lines = [
        f"name: {name}",
        f"status: {result['status']}",
        f"points: {result['points_count']}",
        f"vectors: {vectors['size']} x {vectors['distance']}",
        f"shards: {params['shard_number']}, replication factor {params['replication_factor']}",
    ]
    if result["optimizer_status"] != "ok":
        lines.append(f"problem: {result['optimizer_status']['error']}")
    return "\n".join(lines)
