"""Get, put and delete cached values through any node."""

from __future__ import annotations

import argparse
import json
import sys
from urllib.parse import quote

from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common
from frys_node.cli.terminal import say
from frys_node.client.errors import error_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", required=True)
    get = actions.add_parser("get", help="print a value; exit 1 when there is none")
    put = actions.add_parser("put", help="store a value ('-' reads standard input)")
    delete = actions.add_parser("delete", help="delete a key")
    for sub in (get, put, delete):
        sub.add_argument("key", type=given.name)
        sub.add_argument("--namespace", "-n", type=given.name, default="default")
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
    if arguments.action == "get" and arguments.json:
        return _print_entry(client, arguments, options)
    raw = None
    if arguments.action == "put":
        raw = sys.stdin.buffer.read() if arguments.value == "-" else arguments.value.encode()
    method = {"get": "GET", "put": "PUT", "delete": "DELETE"}[arguments.action]
    status, body, _ = client.request(method, path, raw=raw, headers=_content_type(raw))
    if status >= 400:
        raise error_of(json.loads(body) if body else None, status)
    if arguments.action == "get" and sys.stdout.isatty():
        # A terminal obeys what it is sent; a file or a pipe gets the bytes.
        say(body.decode(errors="backslashreplace"))
    elif arguments.action == "get":
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
    elif arguments.json:
        print(body.decode())
    return 0


def _print_entry(client: AdminClient, arguments: argparse.Namespace, options: list[str]) -> int:
    """Print a value with its version and what is left of its life: an entry of a batch, which holds any bytes."""
    query = "?" + "&".join(options) if options else ""
    batch = {"get": [arguments.key]}
    (entry,) = client.call("POST", f"/v1/cache/{quote(arguments.namespace, safe='')}{query}", batch)["get"]
    if entry is None:
        message = f"no entry '{arguments.key}' in namespace '{arguments.namespace}'"
        raise error_of({"error": {"code": "cache.miss", "message": message}}, 404)
    print(json.dumps(entry))
    return 0


def _content_type(raw: bytes | None) -> dict[str, str]:
    return {} if raw is None else {"Content-Type": "application/octet-stream"}
