"""Leave the cluster for good: hand over what this node holds, say goodbye, stop. SIGTERM only stops a node."""

from __future__ import annotations

import argparse
import sys
import time

from frys_node.base.errors import DeadlineExceeded, NodeUnreachable, error_from_code
from frys_node.cli.admin import AdminClient, add_common, show
from frys_node.cli.confirm import add_yes, must_type
from frys_node.cli.terminal import printable

LEAVE_TIMEOUT_S = 120.0

LAST = (
    "{name} is the last node of its cluster: nobody takes over what it holds. Its collections, cached values and runs"
    " are given up, and its directory starts no more (snapshots that were saved in it stay there)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_yes(parser, "do not ask the last node of a cluster to type its name; no other is asked")
    add_common(parser)
    parser.set_defaults(timeout=LEAVE_TIMEOUT_S)


def run(arguments: argparse.Namespace) -> int:
    """Ask for the leave and follow it until the node has stopped."""
    client = AdminClient(arguments)
    deadline = time.monotonic() + arguments.timeout
    staying = [member for member in client.call("GET", "/v1/members")["members"] if member["status"] != "left"]
    if len(staying) == 1:
        name = staying[0]["name"]
        must_type(arguments, LAST.format(name=name), name)
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
