"""``frys-node node remove``: replaces a dead node, follows it, and says what keeps it from ending."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any
from urllib.parse import quote

from frys_node.base.errors import DeadlineExceeded, FrysError
from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common, show
from frys_node.cli.confirm import add_yes, must_type
from frys_node.cli.terminal import printable

REMOVE_TIMEOUT_S = 300.0
POLL_S = 0.3

TOO_FEW = "too few members live"
TOO_FEW_FIX = (
    "it is removed by itself once enough of the others live; if they never will, as in a cluster of two, add"
    " --accept-loss"
)
LOSS = (
    "what only {name} and other dead nodes hold is lost for good: {what}. {name} is refused if it comes back, and has"
    " to join as a new node"
)
KEYLESS = (
    "if only {name} has the key of the cluster's authority, no node can ever join again, and certificates, which last a"
    " year, are not renewed"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("node", type=given.name, metavar="NODE", help="the dead node's name or id")
    text = "give up what only it holds, its workflow partitions among them; asks to type its name"
    parser.add_argument("--accept-loss", action="store_true", help=text)
    text = "though it may have the only key of the cluster's authority: no node can ever join then; asks as well"
    parser.add_argument("--keyless", action="store_true", help=text)
    add_yes(parser)
    add_common(parser)
    parser.set_defaults(timeout=REMOVE_TIMEOUT_S)


def run(arguments: argparse.Namespace, client: AdminClient) -> int:
    """Ask for the removal and follow it to its end."""
    path = f"/v1/members/{quote(arguments.node, safe='')}/remove"
    deadline_s = time.monotonic() + arguments.timeout
    if arguments.accept_loss or arguments.keyless:
        before = client.call("GET", path)
        name = before["name"]
        texts = [LOSS.format(name=name, what=_held(before))] * arguments.accept_loss
        texts += [KEYLESS.format(name=name)] * arguments.keyless
        must_type(arguments, "; ".join(texts), name)
    wanted = {"accept_loss": arguments.accept_loss}
    if arguments.keyless:
        wanted["keyless"] = True  # a node that has not been upgraded yet knows no such word
    view = client.call("POST", path, wanted)
    shown = ""
    while view["state"] in ("waiting", "moving"):
        told = "; ".join(view["waits_for"]) or view["state"]
        if told != shown:
            shown = told
            print(f"removing {printable(view['name'])}: {printable(told)}", file=sys.stderr)
            if TOO_FEW in told:
                print(f"  {TOO_FEW_FIX}", file=sys.stderr)
        if time.monotonic() >= deadline_s:
            raise DeadlineExceeded(
                f"{view['name']} is not removed yet: {told}",
                hint="it goes on by itself; `frys-node ring` shows it. If the others that it waits for never come back,"
                " --accept-loss ends it",
            )
        time.sleep(POLL_S)
        view = client.call("GET", path)
    if view["state"] == "unremoved":
        raise FrysError(
            f"{view['name']} was not removed: {_blocked(view)}", hint="bring nodes back, or add --accept-loss"
        )
    return show(arguments, view, _told(view))


def _blocked(view: dict[str, Any]) -> str:
    units = view["blocked"]
    if not units:
        return "the step made no progress and was given up"
    return f"too few living members of {', '.join(units[:8])}" + (f" and {len(units) - 8} more" if units[8:] else "")


def _held(view: dict[str, Any]) -> str:
    """Say what a node holds that nobody else has."""
    found = [f"{view['partitions']} workflow partitions"] if view["partitions"] else []
    found += [f"the acknowledged writes of {len(view['blocked'])} units"] if view["blocked"] else []
    return " and ".join(found) or "nothing that is known"


def _told(view: dict[str, Any]) -> str:
    name = printable(view["name"])
    if not view["partitions"]:
        return f"{name} is removed"
    return (
        f"{name} is removed; {view['partitions']} workflow partitions wait for its disk\n"
        f"  start it again and it hands them over, or give their runs up: frys-node node remove {name} --accept-loss"
    )
