"""List the members as a node sees them: status, condition, addresses, tags, phi, round trip.

--watch follows them until Ctrl-C or --for: on a terminal the table is drawn anew in place, once a second; elsewhere it
is printed again after each change of a member (phi and round trips change all the time, and are as of then). With
--json that is one body a line.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from frys_node.base.errors import DeadlineExceeded, FrysError
from frys_node.cli import arguments as given
from frys_node.cli.admin import TIMEOUT_S, AdminClient, add_common, show, table
from frys_node.cli.main import OK
from frys_node.cli.terminal import say
from frys_node.cli.why import phi_text

REDRAW_S = 1.0
"""Pause between two looks on a terminal."""

HEADER = ("NAME", "STATUS", "CONDITION", "ADDRESS", "HTTP", "INCARNATION", "PHI", "RTT_MS", "TAGS")
TAGS_MIN = 16
"""Characters of the tags that are worth a column elsewhere."""

DROPPED = ("INCARNATION", "HTTP", "ADDRESS", "PHI")
"""Columns that a narrow terminal goes without, in this order: they say nothing of how a member does, or `why` does."""

HOME, CLEAR_BELOW, CLEAR_LINE = "\x1b[H", "\x1b[J", "\x1b[K"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--watch", action="store_true", help="show changes as they happen, until Ctrl-C")
    parser.add_argument(
        "--for", dest="lasts", type=given.duration, metavar="T", help="with --watch: end after 10s, 5m ..."
    )
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, once or again and again."""
    client = AdminClient(arguments)
    if not arguments.watch and not arguments.lasts:
        body = client.call("GET", "/v1/members")
        body["absent"] = find_absent(client, body)
        return show(arguments, body, "\n".join([text(body), *absent_lines(body["absent"])]))
    end_s = time.monotonic() + arguments.lasts if arguments.lasts else None
    is_drawn = sys.stdout.isatty() and not arguments.json
    try:
        for body in _ticks(client, end_s) if is_drawn else _changes(client, end_s):
            if arguments.json:
                print(json.dumps(body), flush=True)
            else:
                _draw(body) if is_drawn else say(f"{_now()}\n{text(body)}\n")
    except KeyboardInterrupt:
        pass
    return OK


def text(body: dict[str, Any], columns: int | None = None) -> str:
    """Lay out the body of ``GET /v1/members``; in so many columns, if they can be had by leaving out some."""
    rows: list[tuple[Any, ...]] = [
        (
            member["name"],
            member["status"],
            _condition(member),
            member["address"],
            member["http"] or None,
            member["incarnation"],
            None if member["phi"] is None else phi_text(member["phi"]),
            None if member["rtt_s"] is None else f"{member['rtt_s'] * 1e3:.2f}",
            " ".join(f"{k}={v}" for k, v in sorted(member["tags"].items())) or None,
        )
        for member in body["members"]
    ]
    header: tuple[str, ...] = HEADER
    laid_out = table(rows, header)
    for dropped in DROPPED:
        if columns is None or _fits(laid_out, columns):
            break
        kept = [index for index, title in enumerate(header) if title != dropped]
        rows = [tuple(row[index] for index in kept) for row in rows]
        header = tuple(header[index] for index in kept)
        laid_out = table(rows, header)
    return laid_out


def find_absent(client: AdminClient, body: dict[str, Any]) -> list[str]:
    """Return the ids of nodes that hold something by the ring and that this node has never heard of since its start.

    Membership lives in memory: who was down before all others were restarted is known to the ring alone.
    """
    try:
        nodes = client.call("GET", "/v1/placement")["nodes"]
    except FrysError:
        return []  # no record yet, or nobody whom it tells
    known = {member["id"] for member in body["members"]}
    return [node["id"] for node in nodes if node["id"] not in known]


def absent_lines(absent: Sequence[str]) -> list[str]:
    """Tell of nodes of the ring that are no members, and what to do about them."""
    if not absent:
        return []
    told = "1 more node is on the ring and was" if len(absent) == 1 else f"{len(absent)} more are on the ring and were"
    return [
        f"{told} not heard of since this node started: {', '.join(absent)}",
        "start it again; or, gone for good: frys-node node remove ID, with --accept-loss if runs on its disk are too",
    ]


def _fits(laid_out: str, columns: int) -> bool:
    """True if a terminal holds the table, its last column cut short if it is long."""
    lines = laid_out.split("\n")
    enough = lines[0].index(HEADER[-1]) + TAGS_MIN
    return all(min(len(line), enough) <= columns for line in lines)


def _condition(member: dict[str, Any]) -> str | None:
    """A member's condition, where its status does not say more."""
    is_told = member["status"] == "alive" or (member["status"] == "suspect" and member["condition"] != "ok")
    return member["condition"] if is_told else None


def _now() -> str:
    now = dt.datetime.now().astimezone()
    return f"{now:%Y-%m-%d %H:%M:%S}.{now.microsecond // 1000:03}"


def _draw(body: dict[str, Any]) -> None:
    """Draw over what stood there, as much as the terminal holds; the rest of a longer table is cleared."""
    size = shutil.get_terminal_size()
    # A full line would have its last letter cleared with what follows it.
    columns, height = max(2, size.columns - 1), size.lines
    rows = text(body, columns).split("\n")
    kept = max(1, height - 3)
    more = "" if len(rows) <= kept else f"; {len(rows) - kept} more members do not fit here"
    lines = [
        line if len(line) <= columns else f"{line[: columns - 1]}…"
        for line in (_now(), *rows[:kept], f"Ctrl-C ends{more}")
    ]
    print(HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW, end="", flush=True)


def _ticks(client: AdminClient, end_s: float | None) -> Iterator[dict[str, Any]]:
    """Look once a second."""
    print(HOME + CLEAR_BELOW, end="")
    while end_s is None or time.monotonic() < end_s:
        yield client.call("GET", "/v1/members")
        left_s = REDRAW_S if end_s is None else min(REDRAW_S, end_s - time.monotonic())
        time.sleep(max(0.0, left_s))


def _changes(client: AdminClient, end_s: float | None) -> Iterator[dict[str, Any]]:
    """Look at first, and after each change; a look that shows nothing new is left out."""
    # The node says something every ten seconds; the command's own timeout may be shorter.
    client.timeout_s = max(client.timeout_s, TIMEOUT_S)
    last: list[Any] | None = None
    try:
        for line in client.lines("GET", "/v1/events?types=member", end_s=end_s, is_endless=True):
            if last is not None and not line.startswith(b"data: "):
                continue
            body = client.call("GET", "/v1/members")
            seen = [{k: v for k, v in m.items() if k not in ("phi", "rtt_s")} for m in body["members"]]
            if seen != last:
                last = seen
                yield body
    except DeadlineExceeded:
        if end_s is None or time.monotonic() < end_s:
            raise
