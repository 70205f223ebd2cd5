"""Key/value state of the nodes, the removal of a dead one, and whom the cluster counts as a member.

Each node sets its own keys, every node reads them all, and they are gone when the node restarts.
"""

from __future__ import annotations

import argparse
import base64
import sys
from typing import Any
from urllib.parse import quote

from frys_node.base.errors import UsageError
from frys_node.cli import arguments as given
from frys_node.cli import node_admit, node_remove, node_revoke
from frys_node.cli.admin import AdminClient, add_common, show, table
from frys_node.cli.event import text_of
from frys_node.cli.terminal import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", required=True)
    put = actions.add_parser("set", help="set a key of this node")
    put.add_argument("key", type=given.name, help="up to 64 bytes")
    put.add_argument("value", help="up to 1 KiB ('-' reads standard input)")
    unset = actions.add_parser("unset", help="remove a key of this node")
    unset.add_argument("key", type=given.name)
    get = actions.add_parser("get", help="show a key at every node that has it; exit 1 when there is none")
    get.add_argument("key", type=given.name)
    text = "only of this member: then the bare value is printed, off a terminal byte for byte"
    get.add_argument("--node", type=given.name, metavar="N", help=text)
    get.add_argument("--raw", action="store_true", help="with --node: the bytes as they are, on a terminal too")
    listed = actions.add_parser("list", help="show every key of every node")
    listed.add_argument(
        "--node", type=given.name, metavar="N", help="only of this member, by name or id (its first 4 digits do)"
    )
    for sub in (put, unset, get, listed):
        add_common(sub)
    node_remove.add_arguments(actions.add_parser("remove", help="replace a node that is dead and does not come back"))
    text = "on the issuer: count a node as a member that only a topology record speaks for"
    node_admit.add_arguments(actions.add_parser("admit", help=text))
    node_revoke.add_arguments(actions.add_parser("revoke", help="expel a node at once and change the gossip keys"))


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    if arguments.action == "remove":
        return node_remove.run(arguments, client)
    if arguments.action == "admit":
        return node_admit.run(arguments, client)
    if arguments.action == "revoke":
        return node_revoke.run(arguments, client)
    if arguments.action == "list":
        body = client.call("GET", "/v1/state" + (f"?node={quote(arguments.node, safe='')}" if arguments.node else ""))
        keys = [
            (member["name"], member["status"], key, value["version"], text_of(value, "value"))
            for member in body["state"]
            for key, value in member["keys"].items()
        ]
        return show(arguments, body, table(keys, ("NODE", "STATUS", "KEY", "VERSION", "VALUE")))
    path = f"/v1/state/{quote(arguments.key, safe='')}"
    if arguments.action == "set":
        data = sys.stdin.buffer.read() if arguments.value == "-" else arguments.value.encode()
        body = client.call_raw("PUT", path, data)
        return show(arguments, body, f"{printable(body['key'])} is at version {body['version']}")
    if arguments.action == "unset":
        return show(arguments, client.call("DELETE", path), f"{printable(arguments.key)} is gone")
    if arguments.raw and not arguments.node:
        raise UsageError("--raw prints one value", hint="say whose: --node N")
    body = client.call("GET", path + (f"?node={quote(arguments.node, safe='')}" if arguments.node else ""))
    if not arguments.node:
        rows = [(value["name"], value["version"], text_of(value, "value")) for value in body["values"]]
        return show(arguments, body, table(rows, ("NODE", "VERSION", "VALUE")))
    return _show_value(arguments, body)


def _show_value(arguments: argparse.Namespace, body: dict[str, Any]) -> int:
    """Print the value of one member: its bytes, but nothing that a terminal would obey."""
    (value,) = body["values"]
    if arguments.json or (sys.stdout.isatty() and not arguments.raw):
        return show(arguments, body, text_of(value, "value"))
    text = value.get("value")
    sys.stdout.buffer.write(base64.b64decode(value["value_base64"]) if text is None else text.encode())
    sys.stdout.buffer.flush()
    return 0
