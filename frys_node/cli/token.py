"""Create, list and revoke tokens: those that let a machine join, and those that open the API to a program.

A token is a password, whichever kind it is. Its text is shown once and kept nowhere.
"""

from __future__ import annotations

import argparse
import datetime as dt
from typing import Any
from urllib.parse import quote

from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common, show, table

API_ROLES = ("read", "write", "admin")


ADMIN_ID = "admin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    actions = parser.add_subparsers(dest="action")
    create = actions.add_parser("create", help="make a token and print it")
    create.add_argument(
        "--ttl",
        type=given.duration,
        help="how long it works: 90s, 10m, 1h, 7d (default: 1h for the role node, 30d for the others)",
    )
    create.add_argument("--uses", type=int, help="of the role node: how many nodes may use it (default 1)")
    create.add_argument(
        "--role",
        default="node",
        choices=["node", *API_ROLES],
        help="node: join the cluster (default); read, write, admin: what a program may do over HTTP and Redis",
    )
    for option, what in (("--collection", "vector collection"), ("--namespace", "namespace of the cache")):
        create.add_argument(
            option,
            action="append",
            default=[],
            type=given.name,
            metavar=option[2].upper(),
            help=f"only this {what}; may be given several times (default: the whole cluster)",
        )
    add_common(create, is_below=True)
    told = "list tokens of both kinds, never their secrets (the default)"
    add_common(actions.add_parser("list", help=told), is_below=True)
    revoke = actions.add_parser("revoke", help="make a token of either kind useless")
    revoke.add_argument("id", type=given.name, help="the id that `token list` shows; admin: replace the admin token")
    add_common(revoke, is_below=True)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    if arguments.action == "create":
        wanted: dict[str, Any] = {"role": arguments.role}
        wanted |= {name: getattr(arguments, name) for name in ("uses",) if getattr(arguments, name) is not None}
        wanted |= {} if arguments.ttl is None else {"ttl_s": arguments.ttl}
        scopes = {"collections": arguments.collection, "namespaces": arguments.namespace}
        wanted |= {kind: names for kind, names in scopes.items() if names}
        body = client.call("POST", "/v1/tokens", wanted)
        return show(arguments, body, body["token"])
    if arguments.action == "revoke":
        body = client.call("DELETE", f"/v1/tokens/{quote(arguments.id, safe='')}")
        return show(arguments, body, f"revoked {arguments.id}{_reach(body)}{_new_admin(arguments.id)}")
    body = client.call("GET", "/v1/tokens")
    rows = [_row(token) for token in body["tokens"]]
    text = table(rows, ("ID", "ROLE", "FOR", "STATE", "USES_LEFT", "EXPIRES_AT", "LAST_USED", "MADE_THROUGH"))
    if body.get("uses_told", 0) < body.get("members", 0):
        text += f"\nlast used: as {body['uses_told']} of {body['members']} live nodes remember it"
    return show(arguments, body, text)


def _row(token: dict[str, Any]) -> tuple[str, ...]:
    """Return a token's line; a node remembers uses since its start."""
    used = token.get("last_used_at")
    return (
        token["id"],
        token["role"],
        _scopes(token),
        token["state"],
        _uses(token),
        _instant(token["expires_at"]),
        "-" if used is None else _instant(used),
        token.get("made_through") or "-",
    )


def _reach(body: dict[str, Any]) -> str:
    """Say at how many nodes the change is in force already."""
    if body.get("told", 0) >= body.get("members", 0):
        return ""
    return f"; {body['told']} of {body['members']} nodes know it, the others when the issuer reaches them"


def _new_admin(token_id: str) -> str:
    """Say where the new admin token is: it goes to the disk of the issuer alone."""
    if token_id == ADMIN_ID:
        return "\nthe new one is in `admin-token` in the data directory of the issuer: frys-node issuer show"
    return ""


def _scopes(token: dict[str, Any]) -> str:
    """Return what a token is for: the cluster, or its collections and namespaces."""
    if token["kind"] == "join":
        return "joining"
    names = [f"collection:{name}" for name in token["collections"]]
    names += [f"namespace:{name}" for name in token["namespaces"]]
    return ",".join(names) or "cluster"


def _uses(token: dict[str, Any]) -> str:
    return "any" if token["uses_left"] is None else str(token["uses_left"])


def _instant(unix_s: int | None) -> str:
    """Return an instant in UTC; tokens made before the cluster do not expire."""
    return "never" if unix_s is None else dt.datetime.fromtimestamp(unix_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
