"""Get, put and delete cached values through any node."""

from __future__ import annotations

import argparse
import json
import sys
from urllib.parse import quote

from frys_node.cli.admin import AdminClient, add_common, error_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", required=True)
    get = actions.add_parser("get", help="print a value; exit 1 when there is none")
    put = actions.add_parser("put", help="store a value ('-' reads standard input)")
    delete = actions.add_parser("delete", help="delete a key")
    for sub in (get, put, delete):
        sub.add_argument("key")
        sub.add_argument("--namespace", "-n", default="default")
        sub.add_argument("--consistency", choices=["one", "quorum", "all"])
        add_common(sub)
    put.add_argument("value")
    put.add_argument("--ttl", help="forget after 30s, 10m, 1h ...")


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    options = [f"consistency={arguments.consistency}"] if arguments.consistency else []
    if getattr(arguments, "ttl", None):
        options.append(f"ttl={quote(arguments.ttl)}")
    path = f"/v1/cache/{quote(arguments.namespace, safe='')}/{quote(arguments.key, safe='')}"
    path += "?" + "&".join(options) if options else ""
    raw = None
    if arguments.action == "put":
        raw = sys.stdin.buffer.read() if arguments.value == "-" else arguments.value.encode()
    method = {"get": "GET", "put": "PUT", "delete": "DELETE"}[arguments.action]
    status, body, headers = client.request(method, path, raw=raw, headers=_content_type(raw))
    if status >= 400:
        raise error_of(json.loads(body) if body else None, status)
    if arguments.action == "get" and not arguments.json:
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
        if sys.stdout.isatty():
            print()
    elif arguments.json:
        value = {"status": status, "etag": headers.get("etag")}
        print(json.dumps(value | ({"value": body.decode(errors="replace")} if arguments.action == "get" else {})))
    return 0


def _content_type(raw: bytes | None) -> dict[str, str]:
    return {} if raw is None else {"Content-Type": "application/octet-stream"}
