"""Changes a replication factor and follows the copying, for the verbs `collection update` and `ring set`."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from frys_node.base.errors import DeadlineExceeded
from frys_node.cli.admin import AdminClient, show
from frys_node.cli.terminal import printable

POLL_S = 0.3


def change(arguments: argparse.Namespace, client: AdminClient, collection: str) -> int:
    """Ask for the factor and wait until it is in force; `collection` is empty for the cluster's own."""
    wanted = arguments.replication_factor
    deadline_s = time.monotonic() + arguments.timeout
    client.call("PUT", "/v1/replication/factor", {"collection": collection, "replication_factor": wanted})
    print(f"copying for replication factor {wanted}", file=sys.stderr)
    while True:
        body = client.call("GET", "/v1/replication/factor")
        held: dict[str, Any] = body["collections"].get(collection, {}) if collection else body
        if held.get("replication_factor") == wanted:
            name = f"collection {printable(collection)}" if collection else "the cluster"
            return show(arguments, body, f"{name} has replication factor {wanted}")
        if time.monotonic() >= deadline_s:
            raise DeadlineExceeded(
                f"replication factor {wanted} is not in force yet",
                hint="it goes on by itself; `frys-node ring` shows what it waits for",
            )
        time.sleep(POLL_S)
