"""Show the round trips between two members, each way as the nearer one has measured it; with one, to this node.

Members measure by their own pings. Exit code 1 if nobody has measured that pair, or one of them is dead or has left.
"""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import urlencode

from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common, show, table
from frys_node.cli.main import FAILED, OK
from frys_node.cli.terminal import escaped

GONE = {"dead": "is dead", "left": "has left"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("a", type=given.name, metavar="A", help="a member's name or id (its first 4 digits do)")
    parser.add_argument("b", metavar="B", nargs="?", default="", help="another one (default: this node)")
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print both directions."""
    asked = {"a": arguments.a} | ({"b": arguments.b} if arguments.b else {})
    body = AdminClient(arguments).call("GET", f"/v1/rtt?{urlencode(asked)}")
    show(arguments, body, text(body))
    return FAILED if body["estimate_s"] is None else OK


def text(body: dict[str, Any]) -> str:
    """Tell the body of ``GET /v1/rtt``."""
    body = escaped(body)
    rows = [
        (
            each["a"]["name"] or each["a"]["id"],
            each["b"]["name"] or each["b"]["id"],
            _ms(each["srtt_s"]),
            _ms(each["rttvar_s"]),
            each["samples"] or None,
            each["status"],
            each["condition"],
            each["error"]["message"] if each["error"] else "not measured" if each["srtt_s"] is None else "",
        )
        for each in body["directions"]
    ]
    lines = [table(rows, ("FROM", "TO", "RTT_MS", "VAR_MS", "SAMPLES", "STATUS", "CONDITION", ""))]
    missing = sum(each["srtt_s"] is None for each in body["directions"])
    gone = {
        each["b"]["name"] or each["b"]["id"]: each["status"] for each in body["directions"] if each["status"] in GONE
    }
    if gone:
        lines += [f"{name} {GONE[status]}: what is shown was measured before" for name, status in gone.items()]
    elif body["estimate_s"] is None:
        lines.append("not measured either way, and nothing to estimate it from")
    elif missing:
        lines.append(f"estimate {_ms(body['estimate_s'])} ms, by the way that is measured")
    return "\n".join(lines)


def _ms(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1e3:.2f}"
