"""The cluster's certificate authority: show it, have another one follow it, write out its certificate.

`rotate` has the issuer make a new key, which the old one signs. Every live member trusts both, gets a certificate of
the new one, and then the old one is dropped; requests go on. Join tokens made before stop working, the `join-token`
file is renewed. A member that was away comes home by itself while its own certificate lives, and a week more, unless
it missed more than 15 changes: so on members other than the issuer there is one a day. `export`
writes the certificate alone: the key stays in identity/identity.json of the issuer and its standbys; back that up.
`renew` gets this node another certificate now; by themselves nodes do so at two thirds of its life.
"""

from __future__ import annotations

import argparse
import datetime as dt
import time
from pathlib import Path
from typing import Any

from frys_node.base.errors import ConfigError, DeadlineExceeded
from frys_node.cli.admin import AdminClient, add_common, show, table
from frys_node.cli.terminal import escaped

ROTATE_TIMEOUT_S = 60.0
POLL_S = 0.25
MISSED_MAX = 15
"""As `secure.trust.MISSED_MAX`, whose import would cost every command the time of the cryptography."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action")
    shown = actions.add_parser("show", help="which authority issues, and who has moved to it (the default)")
    rotate = actions.add_parser("rotate", help="have a new authority follow it, and wait until every member has moved")
    renew = actions.add_parser("renew", help="have the issuer renew this node's certificate now, before it is due")
    export = actions.add_parser("export", help="write the certificate (PEM); the key is never exported")
    export.add_argument("--out", metavar="FILE", type=Path, help="write it there instead of to standard output")
    for sub in (parser, shown, rotate, renew, export):
        add_common(sub)
    rotate.set_defaults(timeout=ROTATE_TIMEOUT_S)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    if arguments.action == "export":
        return _export(arguments, client.call("GET", "/v1/ca/certificates"))
    if arguments.action == "renew":
        body = client.call("POST", "/v1/ca/renew")
        return show(arguments, body, f"this node's certificate lasts another {body['left_days']:g} days")
    is_rotation = arguments.action == "rotate"
    body = _rotated(client, arguments.timeout) if is_rotation else client.call("GET", "/v1/ca")
    return show(arguments, body, _text(escaped(body)))


def _rotated(client: AdminClient, timeout_s: float) -> dict[str, Any]:
    """Begin and wait for the end; the change goes on when nobody waits for it.

    Raises:
        DeadlineExceeded: Somebody is behind still; the message names who.
    """
    deadline_s = time.monotonic() + timeout_s
    old = client.call("POST", "/v1/ca/rotate")["authority"]
    while True:
        body: dict[str, Any] = client.call("GET", "/v1/ca")
        if body["stage"] == "stable" and body["authority"] != old and body["moved"] == body["total"]:
            return body
        if time.monotonic() >= deadline_s:
            raise DeadlineExceeded(
                f"stage {body['stage']}: {_count(body)}{_behind(body)}",
                hint="it goes on by itself; see how far it is: frys-node ca",
            )
        time.sleep(POLL_S)


def _export(arguments: argparse.Namespace, body: dict[str, Any]) -> int:
    if arguments.out is None:
        return show(arguments, body, body["certificates"].rstrip())
    try:
        arguments.out.write_text(body["certificates"])
    except OSError as error:
        raise ConfigError(
            f"cannot write {arguments.out}: {error.strerror or error}", hint="choose another --out"
        ) from error
    return show(arguments, body, f"wrote the certificate of authority {body['authority']} to {arguments.out}")


def _count(body: dict[str, Any]) -> str:
    return f"{body['moved']}/{body['total']} members have moved"


def _behind(body: dict[str, Any]) -> str:
    behind = [f"{m['name']} ({m['error']})" if m["error"] else m["name"] for m in body["members"] if not m["has_moved"]]
    return f"; behind: {', '.join(behind)}" if behind else ""


def _text(body: dict[str, Any]) -> str:
    expires = dt.datetime.fromtimestamp(body["expires_at"], dt.UTC).strftime("%Y-%m-%d")
    lines = [f"authority {body['authority']} ({body['kind']}) issues, until {expires}: {_count(body)}{_behind(body)}"]
    if body["stage"] != "stable":
        lines.append(f"being changed, stage {body['stage']}: also trusted: {', '.join(body['also_trusted'])}")
    if body.get("changed_at"):
        when = dt.datetime.fromtimestamp(body["changed_at"], dt.UTC).strftime("%Y-%m-%d %H:%M")
        asked = f", asked for by {body['asked_by']}" if body["asked_by"] else ""
        lines.append(f"made {when}{asked}")
    if body.get("strangers"):
        fix = "never admitted, unconfirmed or gone: not counted; node revoke ID, or node admit ID if it is yours"
        lines.append(f"look like members: {', '.join(body['strangers'])} ({fix})")
    if body["retired"]:
        lines.append(f"not trusted any more: {', '.join(body['retired'])}")
    if body["away"]:
        lines.append(f"dead, not counted: {', '.join(body['away'])} (home by themselves for {MISSED_MAX} changes)")
    rows = [
        (member["name"], "yes" if member["has_moved"] else "no", member["error"] or None) for member in body["members"]
    ]
    return "\n".join([*lines, table(rows, ("NAME", "MOVED", "ERROR"))])
