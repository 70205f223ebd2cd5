"""List and rotate the keys that gossip is sealed with. Keys never leave the nodes: only their epochs are shown."""

from __future__ import annotations

import argparse
from typing import Any

from frys_node.cli.admin import AdminClient, add_common, show, table
from frys_node.cli.terminal import escaped

FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    actions = parser.add_subparsers(dest="action")
    told = "show which epochs each member holds and seals with (the default)"
    add_common(actions.add_parser("list", help=told), is_below=True)
    told = "make a new key and wait until every member seals with it"
    add_common(actions.add_parser("rotate", help=told), is_below=True)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    is_rotation = arguments.action == "rotate"
    body = client.call("POST", "/v1/keys/rotate") if is_rotation else client.call("GET", "/v1/keys")
    show(arguments, body, f"{_table(body)}\n{_verdict(body)}")
    return FAILED if is_rotation and body["converged"] < body["total"] else 0


def _table(body: dict[str, Any]) -> str:
    rows = [
        (member["name"], " ".join(map(str, member["epochs"])) or None, member["primary"], member["error"] or None)
        for member in body["members"]
    ]
    return table(rows, ("NAME", "EPOCHS", "SEALS_WITH", "ERROR"))


def _verdict(body: dict[str, Any]) -> str:
    body = escaped(body)
    texts = [f"epoch {body['epoch']}: {body['converged']}/{body['total']} members seal with it"]
    silent = [member["name"] for member in body["members"] if member["error"]]
    behind = [m["name"] for m in body["members"] if not m["error"] and m["primary"] != body["epoch"]]
    if behind:
        texts.append(f"behind: {', '.join(behind)} (they get it with their next connection)")
    if silent:
        texts.append(f"did not answer: {', '.join(silent)}")
    if body["dead"]:
        texts.append(f"{len(body['dead'])} dead, not counted: {', '.join(body['dead'])}")
    return "; ".join(texts)
