"""Follow what happens, one line each: members, user events, state, components, the ring. Ends at Ctrl-C or --for."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import time
from collections.abc import Iterator
from typing import Any

from frys_node.base.errors import DeadlineExceeded, UsageError
from frys_node.cli import arguments as given
from frys_node.cli.admin import TIMEOUT_S, AdminClient, add_common
from frys_node.cli.event import text_of
from frys_node.cli.main import OK
from frys_node.cli.terminal import escaped, say

TYPES = ("member", "user", "state", "topology", "component", "config")
DEFAULT_TYPES = "member,user"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--types", default=DEFAULT_TYPES, metavar="A,B", help=f"which, of {', '.join(TYPES)} (default {DEFAULT_TYPES})"
    )
    parser.add_argument(
        "--for", dest="lasts", type=given.duration, metavar="T", help="end after 10s, 5m ... (default: at Ctrl-C)"
    )
    add_common(parser, timeout=False)


def run(arguments: argparse.Namespace) -> int:
    """Print events as they come; with --json one object a line."""
    unknown = [name for name in arguments.types.split(",") if name not in TYPES]
    if unknown:
        raise UsageError(f"there are no events of type '{unknown[0]}'", hint=f"choose of {', '.join(TYPES)}")
    end_s = time.monotonic() + arguments.lasts if arguments.lasts else None
    arguments.timeout = TIMEOUT_S
    lines = AdminClient(arguments).lines("GET", f"/v1/events?types={arguments.types}", end_s=end_s, is_endless=True)
    try:
        for kind, data in _events(lines):
            now = dt.datetime.now(dt.UTC)
            if arguments.json:
                print(json.dumps({"at": now.isoformat(timespec="milliseconds"), "type": kind, **data}), flush=True)
            elif line := _line(kind, escaped(data)):
                say(f"{now.astimezone():%H:%M:%S}.{now.microsecond // 1000:03}  {line}")
    except DeadlineExceeded:
        if end_s is None or time.monotonic() < end_s:
            raise
    except KeyboardInterrupt:
        pass
    return OK


def _events(lines: Iterator[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read server-sent events."""
    kind = ""
    for line in lines:
        field, _, value = line.decode().rstrip("\r\n").partition(": ")
        if field == "event":
            kind = value
        elif field == "data":
            yield kind, json.loads(value)


def _line(kind: str, data: dict[str, Any]) -> str:
    """Tell an event in one line; empty if it says nothing."""
    match kind:
        case "member":
            old, new = data["old"], data["new"]
            was = "new" if old is None else old["status"]
            what = f"{was} -> {new['status']}" if was != new["status"] else _difference(old, new)
            return f"member     {new['name']}: {what}" if what else ""
        case "user":
            said = f"event      {data['name']} from {data['origin_name'] or data['origin']}"
            text = text_of(data, "payload")
            return f"{said}: {text}" if text else said
        case "state":
            value = "deleted" if data.get("deleted") else text_of(data, "value")
            return f"state      {data['name'] or data['node']} {data['key']}: {value}"
        case "topology":
            return f"topology   {json.dumps(data)[:200]}"
        case "component":
            return f"component  {data['name']}: {data.get('old')} -> {data['new']}"
        case "dropped":
            return f"dropped    {data['count']} events: this reader is too slow"
        case _:
            return f"{kind:<9}  {json.dumps(data)[:200]}"


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say what a member has changed beside its status; the condition of the dead is nothing to tell."""
    names = [name for name in ("address", "tags", "http", "condition", "boot", "incarnation") if old[name] != new[name]]
    if names == ["condition"] and new["status"] not in ("alive", "suspect"):
        return ""
    return ", ".join(f"{name} {new[name]}" for name in names) or "changed"
