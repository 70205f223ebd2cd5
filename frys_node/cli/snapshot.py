"""Save, verify and restore a node's units or the whole cluster, and watch units that move between nodes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from frys_node.base.errors import UsageError
from frys_node.cli import arguments as given
from frys_node.cli import moves, sealed
from frys_node.cli.admin import AdminClient, add_common, bytes_text, show, table
from frys_node.cli.confirm import add_yes, must_type

JOB_S = 3_600.0
"""How long a save, check or restore may take, unless --timeout says otherwise."""

NAMED_MAX = 5
"""Units that are named for each reason; more are counted."""

REASONS_MAX = 8
"""Reasons that are told; --json has them all."""

GIVES_UP = (
    "restoring '{name}' with --replace gives up runs: in the workflow partitions that it brings back, runs that were"
    " started since it was saved are lost, and those that went on go back"
)

DELETES_ALL = "this deletes every snapshot in {place}: {names}"

KINDS = ("cache", "vector", "workflow")

WHERE = (
    "where snapshots are: a directory or s3://bucket/prefix (default: plugins.snapshots.store, or the data directory)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser(
        "create",
        help="save this node's units, or the whole cluster, under a name",
        description="Requests go on meanwhile. What earlier snapshots in the same place have is not written again.",
    )
    verify = actions.add_parser("verify", help="read a snapshot back and check every byte")
    restore = actions.add_parser(
        "restore",
        help="bring a snapshot back into the cluster, also into another one",
        description="Vectors and cache entries are merged: what is newer, deletions included, stands. Workflow "
        "partitions are replaced: runs started since the snapshot are lost, and those that went on go back.",
    )
    delete = actions.add_parser("delete", help="delete a saved snapshot")
    prune = actions.add_parser(
        "prune",
        help="delete old snapshots, and chunks that none needs",
        description="With both rules, what is old goes unless it is among the newest N. With neither, leftovers go.",
    )
    listing = actions.add_parser("list", help="list saved snapshots, newest first")
    moving = actions.add_parser(
        "moves", help="units on their way between nodes, with rate, ETA and what holds them back"
    )
    sealed.add_arguments(actions, WHERE, JOB_S)
    for sub in (create, verify, restore, delete):
        sub.add_argument("name", type=given.name)
    for sub in (create, restore):
        chosen = sub.add_mutually_exclusive_group()
        chosen.add_argument("--unit", action="append", help="only this unit, such as workflow/17; repeatable")
        chosen.add_argument(
            "--kind", action="append", choices=KINDS, help="only units of this kind; repeatable", metavar="KIND"
        )
    create.add_argument(
        "--cluster", action="store_true", help="every node saves its share, into a place that all reach"
    )
    create.add_argument("--partial", action="store_true", help="with --cluster: leave out what silent nodes hold")
    text = "also replace workflow partitions that have runs, which are lost; asks to type the snapshot's name"
    restore.add_argument("--replace", action="store_true", help=text)
    add_yes(restore)
    prune.add_argument("--keep", type=int, metavar="N", help="keep the newest N")
    prune.add_argument(
        "--older-than", type=given.duration, metavar="T", help="delete what is older: 12h, 30d, or seconds"
    )
    prune.add_argument("--dry-run", action="store_true", help="only say which snapshots would go")
    add_yes(prune)
    for sub in (create, verify, restore, delete, prune, listing):
        sub.add_argument("--store", "--directory", metavar="PLACE", default="", help=WHERE)
        add_common(sub)
        sub.set_defaults(timeout=JOB_S)
    moves.add_arguments(moving)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    if arguments.action in sealed.ACTIONS:
        return sealed.run(arguments, _place(getattr(arguments, "store", "")))
    client = AdminClient(arguments)
    if arguments.action == "moves":
        return moves.run(client, arguments)
    store = _place(arguments.store)
    if arguments.action == "list":
        body = client.call("GET", f"/v1/snapshots?{urlencode({'store': store})}")
        return show(arguments, body, _list_text(body))
    if arguments.action == "delete":
        body = client.call("DELETE", f"/v1/snapshots/{quote(arguments.name, safe='')}?{urlencode({'store': store})}")
        return show(arguments, body, _pruned_text(body))
    if arguments.action == "prune":
        return _prune(arguments, client, store)
    wanted: dict[str, Any] = {"name": arguments.name, "store": store}
    if getattr(arguments, "unit", None):
        wanted["units"] = arguments.unit
    if getattr(arguments, "kind", None):
        wanted["kinds"] = arguments.kind
    if arguments.action == "create":
        body = client.call(
            "POST", "/v1/snapshots", wanted | {"cluster": arguments.cluster, "partial": arguments.partial}
        )
        return show(arguments, body, _created_text(body))
    if arguments.action == "restore":
        if arguments.replace:
            must_type(arguments, GIVES_UP.format(name=arguments.name), arguments.name)
        body = client.call("POST", "/v1/snapshots/restore", wanted | {"replace": arguments.replace})
        show(arguments, body, _restored_text(body))
        return 1 if body["failed"] else 0
    body = client.call("POST", "/v1/snapshots/verify", wanted)
    size = bytes_text(body["size_bytes"])
    good = f"{arguments.name} is whole: {body['units']} units, {body['chunks']} chunks, {size}"
    show(arguments, body, "\n".join(body["problems"]) or good)
    return 1 if body["problems"] else 0


def _prune(arguments: argparse.Namespace, client: AdminClient, store: str) -> int:
    """Delete by the rules; if they would leave nothing, a person has to say so."""
    rules = {"store": store, "keep": arguments.keep, "older_than_s": arguments.older_than}
    if arguments.dry_run or not arguments.yes:
        plan = client.call("POST", "/v1/snapshots/prune", rules | {"dry_run": True})
        if arguments.dry_run:
            return show(arguments, plan, _planned_text(plan))
        if plan["deleted"] and not plan["kept"]:
            place = store or "the node's own place"
            must_type(arguments, DELETES_ALL.format(place=place, names=", ".join(plan["deleted"])), "all")
    body = client.call("POST", "/v1/snapshots/prune", rules)
    return show(arguments, body, _pruned_text(body))


def _place(text: str) -> str:
    """Return a place as the node understands it, which has another working directory."""
    if text.startswith("s3://") or not text:
        return text
    if "://" in text:
        raise UsageError(f"--store {text} is not a place for snapshots", hint="write s3://bucket/prefix or a directory")
    return str(Path(text).resolve())


def _created_text(body: Mapping[str, Any]) -> str:
    units = len({unit["unit"] for unit in body["units"]})
    size = bytes_text(sum(unit["size_bytes"] for unit in body["units"]))
    nodes = f" of {len(body['nodes'])} nodes" if body["scope"] == "cluster" else ""
    lines = [
        f"saved {body['name']}: {units} units{nodes}, {size}",
        f"written {bytes_text(body['new_bytes'])}, reused {bytes_text(body['reused_bytes'])} of earlier snapshots",
    ]
    return "\n".join(lines + _missing_text("not saved", body["missing"]))


def _missing_text(title: str, missing: Sequence[Mapping[str, str]]) -> list[str]:
    """Name units with the reason that they share."""
    by_reason: dict[str, list[str]] = {}
    for one in missing:
        by_reason.setdefault(one["reason"], []).append(one["unit"])
    lines = [f"{title}: {_some(units)}: {reason}" for reason, units in list(by_reason.items())[:REASONS_MAX]]
    rest = sum(len(units) for units in list(by_reason.values())[REASONS_MAX:])
    return [*lines, f"{title}: {rest} more units (--json names them)"] if rest else lines


def _some(units: Sequence[str]) -> str:
    more = f" and {len(units) - NAMED_MAX} more" if len(units) > NAMED_MAX else ""
    return ", ".join(units[:NAMED_MAX]) + more


def _restored_text(body: Mapping[str, Any]) -> str:
    size = bytes_text(body["size_bytes"])
    lines = [f"restored {body['name']}: {body['items']} items into {body['units']} units, {size} read"]
    if body["items_standing"]:
        count = body["items_standing"]
        lines.append(f"{count} items stand: they are there as they were saved, or newer, or were deleted since")
    if body["collections"]:
        lines.append(f"made collections: {', '.join(body['collections'])}")
    if body["standing"]:
        count = len(body["standing"])
        lines.append(f"{count} workflow partitions have all of their saved runs already: they stand as they are")
    lines += _missing_text("skipped", body["skipped"])
    if body["failed"]:
        lines += _missing_text("failed", body["failed"])
        count = len({one["unit"] for one in body["failed"]})
        lines.append(
            f"{count} units are not restored: bring their nodes back, or give up what only those hold (node remove"
            " --accept-loss), and restore again; what is there by then stands"
        )
    return "\n".join(lines)


def _planned_text(body: Mapping[str, Any]) -> str:
    return f"would delete {', '.join(body['deleted']) or 'no snapshot'}; {body['kept']} kept. Nothing was changed."


def _pruned_text(body: Mapping[str, Any]) -> str:
    deleted = ", ".join(body["deleted"]) or "no snapshot"
    lines = [f"deleted {deleted}; {body['kept']} kept; {body['chunks']} chunks, {bytes_text(body['size_bytes'])} freed"]
    return "\n".join([*lines, *([body["waits_for"]] if body["waits_for"] else [])])


def _list_text(body: Mapping[str, Any]) -> str:
    rows = [
        (
            one["name"],
            one["scope"],
            _age_text(time.time() - one["created_unix_ns"] / 1e9),
            len({unit["unit"] for unit in one["units"]}),
            bytes_text(sum(unit["size_bytes"] for unit in one["units"])),
            bytes_text(one["new_bytes"]) if one["format"] > 1 else None,
            f"{one['epoch']['term']}.{one['epoch']['seq']}" if one["epoch"] else None,
            ", ".join(sorted(one["nodes"].values())) or one["node"][:12],
        )
        for one in body["snapshots"]
    ]
    header = ("NAME", "SCOPE", "AGE", "UNITS", "SIZE", "NEW", "EPOCH", "NODES")
    return "\n".join([table(rows, header) if rows else "there are no snapshots", *body["problems"]])


def _age_text(seconds: float) -> str:
    for size, unit in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
