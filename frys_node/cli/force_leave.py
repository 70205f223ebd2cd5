"""Declare a dead member to have left for good: it is not tried again, and its name becomes free.

Dead members only: of a suspect wait until it is dead; see `frys-node why NODE`. What it held on the ring stays assigned
to it. A member that is alive is asked to leave by itself: `frys-node leave`.
"""

from __future__ import annotations

import argparse
from urllib.parse import quote

from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common, show
from frys_node.cli.terminal import escaped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "node", type=given.name, metavar="NODE", help="the dead member's name or id (its first 4 digits do)"
    )
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Declare it, and say what that means."""
    body = AdminClient(arguments).call("POST", f"/v1/members/{quote(arguments.node, safe='')}/force-leave")
    member = escaped(body["member"])
    return show(arguments, body, f"{member['name']} ({member['id']}) counts as {member['status']}")
