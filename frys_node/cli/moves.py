"""Units on their way between nodes, over the whole cluster: from where, to where, how far, how fast, why not faster.

--watch follows them until Ctrl-C or --for: on a terminal the table is drawn anew in place, elsewhere it is printed
whenever it has changed; with --json each body is a line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

from frys_node.cli import arguments as given
from frys_node.cli.admin import AdminClient, add_common, bytes_text, show, table
from frys_node.cli.terminal import escaped, print_painted, say

WATCH_S = 0.5
FINISHED_SHOWN = 10
"""Finished moves that are shown beneath those under way."""

OVER = ("installed", "aborted")
HEADER = ("UNIT", "FROM", "TO", "STATE", "DONE", "OF", "RATE", "ETA", "HELD BACK")
HOME, CLEAR_BELOW, CLEAR_LINE = "\x1b[H", "\x1b[J", "\x1b[K"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--watch", action="store_true", help="follow them until interrupted")
    parser.add_argument(
        "--for", dest="lasts", type=given.duration, metavar="T", help="with --watch: end after 10s, 5m ..."
    )
    parser.add_argument("--here", action="store_true", help="only moves to this node; asks no other")
    parser.add_argument("--all", action="store_true", help=f"also finished moves beyond the last {FINISHED_SHOWN}")
    add_common(parser)


def run(client: AdminClient, arguments: argparse.Namespace) -> int:
    """Print the moves, once or again and again."""
    path = "/v1/moves" if arguments.here else "/v1/moves?cluster"
    if not arguments.watch:
        body = client.call("GET", path)
        return show(arguments, body, "" if arguments.json else text(body, is_whole=arguments.all))
    is_drawn = sys.stdout.isatty() and not arguments.json
    last = ""
    try:
        for body in _bodies(client, path, arguments.lasts):
            shown = json.dumps(body) if arguments.json else text(body, is_whole=arguments.all)
            if is_drawn:
                _draw(shown)
            elif shown != last:
                say(shown if arguments.json else f"{shown}\n")
            last = shown
    except KeyboardInterrupt:
        pass
    return 0


def _bodies(client: AdminClient, path: str, lasts_s: float | None) -> Iterator[dict[str, Any]]:
    end_s = time.monotonic() + lasts_s if lasts_s else None
    while end_s is None or time.monotonic() < end_s:
        yield client.call("GET", path)
        time.sleep(WATCH_S)


def _draw(shown: str) -> None:
    """Draw over what was there; what does not fit is cut off rather than wrapped."""
    size = shutil.get_terminal_size()
    lines = [line[: size.columns - 1] for line in shown.split("\n")][: size.lines - 2]
    print_painted(HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW)


def text(body: dict[str, Any], *, is_whole: bool = False) -> str:
    """Tell the body of ``GET /v1/moves``; the moves of all nodes if it has them."""
    body = escaped(body)
    active = [move for move in body["moves"] if move["state"] not in OVER]
    finished = [move for move in body["moves"] if move["state"] in OVER]
    finished.sort(key=lambda move: move["started_unix_ns"], reverse=True)
    shown = finished if is_whole else finished[:FINISHED_SHOWN]
    lines = [*_head(body, active, len(finished)), table([_row(move) for move in [*active, *shown]], HEADER)]
    if len(shown) < len(finished):
        lines.append(f"... and {len(finished) - len(shown)} finished before; --all shows them")
    lines += [f"{each['name']} did not answer: {each['error']}" for each in body.get("silent", [])]
    return "\n".join(lines)


def _head(body: dict[str, Any], active: list[dict[str, Any]], finished: int) -> list[str]:
    """Say how far everything together is, and the change that it belongs to."""
    lines = []
    step = body.get("step")
    if step is not None:
        state = step["phase"] if step["settled"] or step["phase"] != "stable" else "stable, not settled yet"
        copies = f", {step['copies']} copies to make" if step["copies"] else ""
        lines.append(f"epoch {step['epoch']}, {state}{copies}")
        lines += [f"waits for {each['name']}: {each['reason']}" for each in step["waits_for"]]
    left = sum(move["bytes_total"] - move["bytes_done"] for move in active)
    rate = sum(move["rate_bytes_s"] for move in active)
    eta = f", {seconds_text(left / rate)} left" if rate and left else ""
    under_way = f"{len(active)} under way, {bytes_text(left)} to go at {bytes_text(rate)}/s{eta}"
    lines.append(f"{under_way}; {finished} finished" if active else f"nothing under way; {finished} finished")
    return lines


def _row(move: dict[str, Any]) -> tuple[Any, ...]:
    eta = None if move["eta_s"] is None else seconds_text(move["eta_s"])
    if move["state"] in OVER:
        eta = None
    return (
        move["unit"],
        move["source_name"],
        move["target_name"],
        move["state"],
        bytes_text(move["bytes_done"]),
        bytes_text(move["bytes_total"]),
        f"{bytes_text(move['rate_bytes_s'])}/s",
        eta,
        move["held_back"] or None,
    )


def seconds_text(seconds: float) -> str:
    """Return a duration for people: ``0.4 s``, ``12 s``, ``3 m 20 s``, ``2 h 5 m``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} m {whole % 60} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60} m"
