"""Leave the cluster for good: hand over what this node holds, say goodbye, stop. SIGTERM only stops a node."""

from __future__ import annotations

import argparse
import sys
import time

from frys_node.base.errors import DeadlineExceeded, NodeUnreachable, error_from_code
from frys_node.cli.admin import AdminClient, add_common, show
from frys_node.cli.terminal import printable

LEAVE_TIMEOUT_S = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    parser.set_defaults(timeout=LEAVE_TIMEOUT_S)


def run(arguments: argparse.Namespace) -> int:
    """Ask for the leave and follow it until the node has stopped."""
    client = AdminClient(arguments)
    deadline = time.monotonic() + arguments.timeout
    body = client.call("POST", "/v1/leave")
    shown = ""
    while time.monotonic() < deadline:
        try:
            state = client.call("GET", "/v1/leave")
        except NodeUnreachable:
            return show(arguments, {"left": True, **body}, f"{body['name']} has left")
        if state.get("error"):
            message = f"{body['name']} cannot leave: {state['error']}"
            raise error_from_code(state["code"], message, state.get("hint", ""))
        if state["state"] != shown:
            shown = state["state"]
            print(f"leaving: {printable(shown)}", file=sys.stderr)
        time.sleep(0.1)
    raise DeadlineExceeded(
        f"{body['name']} has not left yet: {shown}",
        hint="the leave goes on by itself; the same command follows it again",
    )
