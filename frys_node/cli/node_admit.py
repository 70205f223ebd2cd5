"""``frys-node node admit``: says of a node that only a topology record speaks for that it is a member."""

from __future__ import annotations

import argparse
from urllib.parse import quote

from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common, show
from frys_node.cli.terminal import escaped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("node", type=given.name, metavar="NODE", help="the node's name or id")
    add_common(parser)


def run(arguments: argparse.Namespace, client: AdminClient) -> int:
    """Ask the node at hand, which has to be the issuer."""
    body = client.call("POST", f"/v1/members/{quote(arguments.node, safe='')}/admit")
    shown = escaped(body)
    what = "is a member now: it is renewed, and moves with the authority" if body["is_new"] else "was a member before"
    return show(arguments, body, f"{shown['name']} {what} ({shown['id']})")
