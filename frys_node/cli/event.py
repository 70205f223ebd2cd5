"""Tell the whole cluster something: every node delivers it once, to `monitor`, `/v1/events` and its plugins."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common, show
from frys_node.cli.terminal import escaped, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", type=given.name, help="what happened, up to 64 bytes")
    parser.add_argument("payload", nargs="?", default="", help="up to 512 bytes ('-' reads standard input)")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Fire it."""
    body = AdminClient(arguments).call("POST", "/v1/events", named_payload(arguments))
    event = escaped(body["event"])
    return show(arguments, body, f"event {event['name']} is number {event['sequence']} of {event['origin_name']}")


def named_payload(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the part of a request's body that names it and carries the bytes."""
    if arguments.payload != "-":
        return {"name": arguments.name, "payload": arguments.payload}
    data = sys.stdin.buffer.read()
    try:
        return {"name": arguments.name, "payload": data.decode()}
    except UnicodeDecodeError:
        import base64

        return {"name": arguments.name, "payload_base64": base64.b64encode(data).decode()}


def text_of(shown: dict[str, Any], name: str) -> str:
    """Return bytes as a node shows them, for one line of a terminal."""
    text = shown.get(name)
    if text is None:
        encoded = shown.get(f"{name}_base64")
        return "-" if encoded is None else f"base64:{encoded}"
    return printable(text)
