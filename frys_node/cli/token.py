"""Create, list and revoke join tokens. A token lets a machine become a node: treat it as a password."""

from __future__ import annotations

import argparse
import datetime as dt
from typing import Any
from urllib.parse import quote

from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common, show, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a token and print it")
    create.add_argument(
        "--ttl", type=given.duration, default="1h", help="how long it works: 90s, 10m, 1h, 7d (default 1h)"
    )
    create.add_argument("--uses", type=int, default=1, help="how many nodes may use it (default 1)")
    create.add_argument("--role", default="node", choices=["node"], help="what the holder becomes")
    add_common(create)
    add_common(actions.add_parser("list", help="list tokens (never their secrets)"))
    revoke = actions.add_parser("revoke", help="make a token useless")
    revoke.add_argument("id", type=given.name, help="the id that `token list` shows")
    add_common(revoke)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    if arguments.action == "create":
        wanted = {"ttl_s": arguments.ttl, "uses": arguments.uses, "role": arguments.role}
        body = client.call("POST", "/v1/tokens", wanted)
        return show(arguments, body, body["token"])
    if arguments.action == "revoke":
        body = client.call("DELETE", f"/v1/tokens/{quote(arguments.id, safe='')}")
        return show(arguments, body, f"revoked {arguments.id}")
    body = client.call("GET", "/v1/tokens")
    rows = [(t["id"], t["role"], t["state"], _uses(t), _instant(t["expires_at"])) for t in body["tokens"]]
    return show(arguments, body, table(rows, ("ID", "ROLE", "STATE", "USES_LEFT", "EXPIRES_AT")))


def _uses(token: dict[str, Any]) -> str:
    return "any" if token["uses_left"] is None else str(token["uses_left"])


def _instant(unix_s: int | None) -> str:
    """Return an instant in UTC; tokens made before the cluster do not expire."""
    return "never" if unix_s is None else dt.datetime.fromtimestamp(unix_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
