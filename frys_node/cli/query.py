"""Ask the members a question and show what each says, as it comes. `ping` and `uptime` are answered by every node.

Exit code 1 if no member is asked, 4 if members are asked and none speaks in time.
"""

from __future__ import annotations

import argparse
import json

from frys_node.base.errors import UsageError
from frys_node.cli import arguments as given
from frys_node.cli.admin import TIMEOUT_S, AdminClient, add_common, show
from frys_node.cli.event import named_payload, text_of
from frys_node.cli.main import FAILED, OK, TIMED_OUT
from frys_node.cli.terminal import printable, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", type=given.name, help="which handler is asked, up to 64 bytes")
    parser.add_argument("payload", nargs="?", default="", help="up to 1 KiB ('-' reads standard input)")
    parser.add_argument("--tag", action="append", default=[], metavar="K=V", help="only members with this tag")
    parser.add_argument(
        "--node",
        type=given.name,
        action="append",
        default=[],
        metavar="N",
        help="only this member, by name or id (its first 4 digits do)",
    )
    add_common(parser, timeout=False)
    text = "how long to wait for answers: 500ms, 30s, 5m, or plain seconds (default 5s)"
    parser.add_argument("--timeout", type=given.timeout, default=5.0, metavar="T", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Ask, and print a line for each answer."""
    wait_s = arguments.timeout
    arguments.timeout = wait_s + TIMEOUT_S
    client = AdminClient(arguments)
    wanted = named_payload(arguments) | {
        "nodes": arguments.node,
        "tags": dict(map(_pair, arguments.tag)),
        "timeout_s": wait_s,
    }
    if arguments.json:
        body = client.call("POST", "/v1/queries", wanted)
        show(arguments, body, "")
        return _code(body["counts"])
    counts: dict[str, int] | None = None
    has_header = False
    for line in client.lines("POST", "/v1/queries?stream=1", wanted):
        answer = json.loads(line)
        if "counts" in answer:
            counts = answer["counts"]
            continue
        if not has_header:
            say(f"{'NAME':<20}  {'OUTCOME':<9}  {'AFTER_MS':>8}  ANSWER")
            has_header = True
        text = text_of(answer, "payload") or "-"
        name = printable(answer["name"] or answer["node"])
        say(f"{name:<20}  {answer['outcome']:<9}  {answer['after_s'] * 1e3:>8.2f}  {text}")
    if counts is None:
        raise client.stopped()
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count and outcome != "asked")
    say(f"{counts['asked']} asked" + (f": {told}" if told else "; no member matches"))
    return _code(counts)


def _code(counts: dict[str, int]) -> int:
    if not counts["asked"]:
        return FAILED
    return TIMED_OUT if counts["acked"] + counts["silent"] == counts["asked"] else OK


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise UsageError(f"'{text}' is not a tag", hint="write --tag zone=a")
    return key, value
