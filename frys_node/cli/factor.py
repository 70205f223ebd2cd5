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
    request = {"collection": collection, "replication_factor": wanted}
    client.call("PUT", "/v1/replication/factor", request)
    print(f"copying for replication factor {wanted}", file=sys.stderr)
    was_under_way = False
    while True:
        body = client.call("GET", "/v1/replication/factor")
        held: dict[str, Any] = body["collections"].get(collection, {}) if collection else body
        if held.get("replication_factor") == wanted:
            name = f"collection {printable(collection)}" if collection else "the cluster"
            return show(arguments, body, f"{name} has replication factor {wanted}")
        is_under_way = held.get("next") == wanted
        if was_under_way and not is_under_way:
            # The issuer forgets what it has to give up: whoever still wants it asks again.
            print("the step made no progress and was given up; asking again", file=sys.stderr)
            client.call("PUT", "/v1/replication/factor", request)
        was_under_way = is_under_way
        if time.monotonic() >= deadline_s:
            raise DeadlineExceeded(
                f"replication factor {wanted} is not in force yet",
                hint="`frys-node ring` shows what it waits for. What is under way goes on, but a step that makes no"
                " progress is given up and has to be asked for again: the same command does that, and waits",
            )
        time.sleep(POLL_S)
