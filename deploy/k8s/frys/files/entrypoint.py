"""Starts the node of a pod: pod 0 creates the cluster (or restarts in it), the others join through pod 0.

A joiner waits until pod 0 accepts connections, so that pods started in parallel do not fail their first attempt. A
node that has an identity already restarts in its cluster without waiting for anybody.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

POLL_S = 0.5
WAIT_S_MAX = 300.0
CONNECT_S_MAX = 2.0
IDENTITY = "identity/identity.json"
"""Where a node that has joined keeps its identity, inside its data directory."""


def seed_answers(host: str, port: int) -> bool:
    """True if the seed accepts a connection."""
    try:
        with socket.create_connection((host, port), timeout=CONNECT_S_MAX):
            return True
    except OSError:
        return False


def command(environment: dict[str, str], *, has_identity: bool) -> list[str]:
    """Return the node's command line for this pod."""
    name = environment["POD_NAME"]
    arguments = ["frys-node"]
    if has_identity or name.rpartition("-")[2] == "0":
        arguments.append("start")
    else:
        arguments += ["join", "--seed", environment["NODE_SEED"]]
    arguments += ["--name", name, "--config", environment["NODE_CONFIG"], "--data-dir", environment["FRYS_DATA_DIR"]]
    return arguments


def main() -> None:
    """Wait for the seed if this pod joins, then become the node."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    has_identity = os.path.exists(os.path.join(os.environ["FRYS_DATA_DIR"], IDENTITY))
    arguments = command(dict(os.environ), has_identity=has_identity)
    if "join" in arguments:
        host, _, port = os.environ["NODE_SEED"].rpartition(":")
        deadline = time.monotonic() + WAIT_S_MAX
        while not seed_answers(host, int(port)):
            if time.monotonic() > deadline:
                raise SystemExit(f"{host}:{port} did not answer within {WAIT_S_MAX:.0f} s: is pod 0 running?")
            print(f"waiting for {host}:{port} ...", file=sys.stderr, flush=True)
            time.sleep(POLL_S)
    os.execvp(arguments[0], arguments)


if __name__ == "__main__":
    main()
