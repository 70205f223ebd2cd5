"""Where nodes live on this machine, and what a directory without an answering node is."""

from __future__ import annotations

import os
from pathlib import Path

from frys_node.base.errors import ConfigError, NodeUnreachable

HOME = Path("frys-data")
IDENTITY = Path("identity") / "identity.json"
LEFT = Path("identity") / "left"


class NodeNotFound(ConfigError):
    """No data directory was named or found. Nothing was done."""

    code = "cli.no_data_dir"


def find_data_dir(given: str | None) -> Path:
    """Return the data directory: given, FRYS_DATA_DIR, or the sole one under ./frys-data.

    Raises:
        NodeNotFound: None, or several; the message lists them.
    """
    if given or os.environ.get("FRYS_DATA_DIR"):
        return Path(given or os.environ["FRYS_DATA_DIR"])
    # "*" takes hidden names too: a join that a crash ended leaves one behind.
    found = sorted(path for path in HOME.glob("[!.]*") if path.is_dir())
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(map(str, found))
        raise NodeNotFound(f"several nodes live here: {names}", hint="pick one with --data-dir")
    raise NodeNotFound(
        "no node's data directory here", hint="use --data-dir D or FRYS_DATA_DIR, or run where ./frys-data is"
    )


def unreachable(data_dir: Path, cause: Exception | None) -> NodeUnreachable:
    """Return why no node answers in a directory: a fix that founds a second cluster by mistake would be none."""
    if isinstance(cause, PermissionError):
        return NodeUnreachable(f"{data_dir} is another user's", hint="run the command as the user who runs the node")
    if (data_dir / LEFT).exists():
        return NodeUnreachable(
            f"the node in {data_dir} has left its cluster for good",
            hint=f"move {data_dir} away (snapshots that were saved are in it), then join as a new node",
        )
    if not (data_dir / IDENTITY).exists():
        found = [
            path.parents[1] for root in (data_dir, data_dir / HOME, HOME) for path in sorted(root.glob(f"*/{IDENTITY}"))
        ]
        nodes = f"; nodes found: {', '.join(map(str, dict.fromkeys(found)))}" if found else ""
        return NodeUnreachable(
            f"no node's data is in {data_dir}", hint=f"check --data-dir, FRYS_DATA_DIR and the working directory{nodes}"
        )
    return NodeUnreachable(f"no node answers in {data_dir}", hint=f"start it: frys-node start --data-dir {data_dir}")
