"""Which node writes the topology record, and who else may: hand the role over, or take it when its holder is gone.

`handover` is for a living issuer. `promote`, on the node that shall have the role, is for one that is gone: it needs
the promises of a majority of every unit's replicas. `--force` goes without: all members that do not answer are given up
for good, with every acknowledged write that only they held.
"""

from __future__ import annotations

import argparse
from typing import Any

from frys_node.base.errors import UsageError
from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common, show
from frys_node.cli.confirm import add_yes, must_type
from frys_node.cli.terminal import escaped

ISSUER_TIMEOUT_S = 60.0

FORCE = (
    "--force declares these members destroyed: {names}. What only they held is lost, though it was acknowledged; their"
    " certificates are revoked and they can never come back"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action")
    shown = actions.add_parser("show", help="who it is, whether it answers and can admit nodes (the default)")
    over = actions.add_parser("handover", help="have another member write the record from now on")
    over.add_argument("to", type=given.name, metavar="NODE", help="the member's name or id")
    promote = actions.add_parser("promote", help="make this node the issuer: the old one is gone")
    promote.add_argument("--force", action="store_true", help="without a majority; asks to type the lost names")
    text = "with --force: a member that is destroyed; all that do not answer have to be named"
    promote.add_argument("--destroyed", action="append", default=[], metavar="NODE", type=given.name, help=text)
    add_yes(promote)
    for sub in (parser, shown, over, promote):
        add_common(sub)
    for sub in (over, promote):
        sub.set_defaults(timeout=ISSUER_TIMEOUT_S)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    if arguments.action == "handover":
        body = client.call("POST", "/v1/issuer/handover", {"to": arguments.to})
    elif arguments.action == "promote":
        body = client.call("POST", "/v1/issuer/promote", {"destroyed": _destroyed(arguments)})
    else:
        body = client.call("GET", "/v1/issuer")
    return show(arguments, body, _text(body))


def _destroyed(arguments: argparse.Namespace) -> list[str] | None:
    """Return the members that are given up, once they were typed; None without ``--force``."""
    if not arguments.force:
        if arguments.destroyed:
            raise UsageError("--destroyed goes with --force only")
        return None
    if not arguments.destroyed:
        raise UsageError(
            "--force has to be told which members are destroyed",
            hint="run it without --force first: it names those that do not answer; then --destroyed NODE for each",
        )
    names = " ".join(arguments.destroyed)
    must_type(arguments, FORCE.format(names=", ".join(arguments.destroyed)), names)
    return list(arguments.destroyed)


def _text(view: dict[str, Any]) -> str:
    view = escaped(view)
    lines = [f"{view['name']} writes the topology record: term {view['term']}, epoch {view['epoch']}"]
    if not view["answers"]:
        lines.append("it does not answer: joins, leaves, removals and new collections wait")
        lines.append("  if it is gone: frys-node issuer promote, on the node that shall have the role")
    elif not view["can_admit"]:
        lines.append("it does not hold the authority's key: no node can join, and no certificate is renewed")
        lines.append("  start a member that has it, the old issuer or a standby, and: frys-node issuer handover NODE")
    if view["standby"]:
        lines.append(f"keep the authority too: {', '.join(view['standby'])}")
    if view["successor"]:
        lines.append(f"{view['successor']} was named to take over and has not yet")
    if view["promised"]:
        lines.append(f"this node has promised term {view['promised']}: it takes no lower record")
    lines += view.get("warnings", [])
    return "\n".join(lines)
