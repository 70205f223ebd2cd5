"""List the members as a node sees them: status, condition, addresses, tags, round trip."""

from __future__ import annotations

import argparse

from frys_node.cli.admin import AdminClient, add_common, show, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    body = AdminClient(arguments).call("GET", "/v1/members")
    rows = [
        (
            member["name"],
            member["status"],
            member["condition"] if member["status"] == "alive" else None,
            member["address"],
            member["http"] or None,
            member["incarnation"],
            None if member["rtt_s"] is None else f"{member['rtt_s'] * 1e3:.2f}",
            " ".join(f"{k}={v}" for k, v in sorted(member["tags"].items())) or None,
        )
        for member in body["members"]
    ]
    header = ("NAME", "STATUS", "CONDITION", "ADDRESS", "HTTP", "INCARNATION", "RTT_MS", "TAGS")
    return show(arguments, body, table(rows, header))
