"""Show who owns what: a picture of the ring, the members' shares, the owner of a key, and what a change would move."""

from __future__ import annotations

import argparse
import shutil
from itertools import zip_longest
from typing import Any
from urllib.parse import urlencode

from frys_node.cli import arguments as given
from frys_node.cli import factor
from frys_node.cli import ring_picture as picture
from frys_node.cli.admin import AdminClient, add_common, bytes_text, show, table
from frys_node.cli.terminal import escaped, is_painted, print_painted

PINNED_MAX = 4
"""Units that wait for a silent owner's disk and are named; more are counted."""

GAP = 3
"""Columns between the picture and what stands beside it."""

MEMBERS_BESIDE_MAX = 62
"""More members than there are letters are only listed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action")
    shown = actions.add_parser("show", help="the ring: a picture, members, loads, the change under way (the default)")
    owner = actions.add_parser("owner", help="which nodes hold a cache key, a workflow run or a unit")
    what = owner.add_mutually_exclusive_group(required=True)
    what.add_argument("key", nargs="?", type=given.name, help="a cache key")
    what.add_argument("--run", type=given.name, metavar="ID", help="a workflow run")
    what.add_argument("--unit", type=given.name, metavar="U", help="a unit, such as workflow/17")
    plan = actions.add_parser(
        "plan",
        help="what nodes that come or go would move; nothing is changed",
        description="Tells what joins, leaves or another replication factor would move, in the steps that the issuer "
        "would make of them: up to 16 nodes that come or go together, then the replication factor. Nodes that are dead "
        "get nothing; what waits for them is said. Sizes are what the nodes report now. Nothing is changed.",
    )
    plan.add_argument(
        "--add",
        action="append",
        default=[],
        type=newcomer,
        metavar="NODE[:WEIGHT[:ZONE[:RACK]]]",
        help="a node that joins, such as e or e:2:zone-b; repeatable",
    )
    plan.add_argument(
        "--remove", action="append", default=[], type=given.name, metavar="NODE", help="a node that leaves; repeatable"
    )
    plan.add_argument(
        "--replication-factor",
        type=int,
        metavar="N",
        help="copies of cache units, as `ring set` makes them, or with --collection of its shards",
    )
    plan.add_argument(
        "--collection", type=given.name, metavar="C", help="whose replication factor, as `collection update` changes it"
    )
    put = actions.add_parser("set", help="have another number of copies of each cache unit, while it serves")
    put.add_argument("--replication-factor", type=int, required=True, help="copies, 1 to 7")
    add_common(parser)
    for sub in (shown, owner, plan, put):
        add_common(sub)


def newcomer(text: str) -> dict[str, Any]:
    """Read ``NODE[:WEIGHT[:ZONE[:RACK]]]`` for argparse."""
    node, weight, zone, rack = (*text.split(":"), "", "", "")[:4]
    if not node or text.count(":") > 3:
        raise argparse.ArgumentTypeError(f"'{text}' is not NODE[:WEIGHT[:ZONE[:RACK]]]")
    try:
        return {"node": node, "weight": float(weight or 1), "zone": zone, "rack": rack}
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{weight}' is not a weight; 1 is normal") from None


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    client = AdminClient(arguments)
    if arguments.action == "set":
        return factor.change(arguments, client, "")
    if arguments.action == "owner":
        return _owner(client, arguments)
    if arguments.action == "plan":
        wanted: dict[str, Any] = {"add": arguments.add, "remove": arguments.remove}
        if arguments.replication_factor is not None:
            wanted["replication_factor"] = arguments.replication_factor
        if arguments.collection is not None:
            wanted["collection"] = arguments.collection
        body = client.call("POST", "/v1/ring/plan", wanted)
        return show(arguments, body, "" if arguments.json else plan_text(escaped(body)))
    body = client.call("GET", "/v1/ring/show")
    if arguments.json:
        return show(arguments, body, "")
    size = shutil.get_terminal_size()
    print_painted(ring_text(escaped(body), width=size.columns, height=size.lines, with_colours=is_painted()))
    return 0


def _owner(client: AdminClient, arguments: argparse.Namespace) -> int:
    wanted = {"key": arguments.key, "run": arguments.run, "unit": arguments.unit}
    query = urlencode({name: value for name, value in wanted.items() if value is not None})
    body = client.call("GET", f"/v1/ring?{query}")
    owner = escaped(body["owner"])
    text = f"unit {owner['unit']} at epoch {owner['epoch']} ({owner['phase']}): {', '.join(owner['current'])}"
    if owner["next"] != owner["current"]:
        text += f" -> {', '.join(owner['next'])}"
    rows = [
        (node["name"], node["zone"] or None, node["rack"] or None, node["status"] or None, ", ".join(node["sets"]))
        for node in owner["nodes"]
    ]
    return show(arguments, body, f"{text}\n{table(rows, ('NAME', 'ZONE', 'RACK', 'STATUS', 'SETS'))}")


def ring_text(body: dict[str, Any], *, width: int, height: int, with_colours: bool) -> str:
    """Tell the body of ``GET /v1/ring/show``, whose texts are printable, for a terminal of that size."""
    head, members = _head(body), _members(body, with_colours=with_colours)
    sectors, following = body["sectors"], body.get("next_sectors", [])
    rows = min(picture.ROWS_MAX, height - len(head) - 2) // 2 * 2 - 1
    columns = 2 * (rows + 1)
    fits_above = rows >= picture.ROWS_MIN and columns <= width
    if not sectors or len(body["members"]) > MEMBERS_BESIDE_MAX:
        return "\n".join([*head, *members])
    if not fits_above:
        return "\n".join([*head, picture.band(following or sectors, width, is_painted=with_colours), *members])
    inside = [body["phase"], _count(len(body["members"]), "node"), f"{sum(m['units'] for m in body['members'])} places"]
    drawn = picture.circle(sectors, following, inside, rows=rows, is_painted=with_colours)
    plain = _members(body, with_colours=False)
    if columns + GAP + max(map(len, plain)) > width:
        return "\n".join([*head, *(line.rstrip() for line in drawn), "", *members])
    above = max(0, (len(drawn) - len(members)) // 2)
    beside = [""] * above + members
    blank = " " * (2 * rows)
    pairs = zip_longest(drawn, beside, fillvalue=None)
    return "\n".join([*head, *(f"{left or blank}{' ' * GAP}{right or ''}".rstrip() for left, right in pairs)])


def _head(body: dict[str, Any]) -> list[str]:
    """Say which record is in force, who writes it, and what a change under way waits for."""
    issuer = body["issuer"]["name"]
    is_over = body["phase"] == "stable" and body["settled"]
    state = body["phase"] if is_over or body["phase"] != "stable" else "stable, not settled yet"
    sizes = f"{_count(body['partitions'], 'partition')}, {_count(body['replication_factor'], 'copy', 'copies')}"
    lines = [f"epoch {body['epoch']}, {state}, {sizes}, issuer {issuer}"]
    if not body["issuer"]["answers"]:
        lines.append(f"{issuer} does not answer: joins, leaves and new collections wait until it is back")
    if body["copies_to_make"]:
        lines.append(f"the change under way makes {body['copies_to_make']} copies; see: frys-node snapshot moves")
    lines += [f"waits for {each['name']}: {each['reason']}" for each in body["waits_for"]]
    if body["queued"]:
        lines.append(f"queued: {', '.join(body['queued'])}")
    if body["pinned"]:
        pinned = body["pinned"]
        more = f" and {len(pinned) - PINNED_MAX} more (--json names them)" if len(pinned) > PINNED_MAX else ""
        units = _count(len(pinned), "unit waits for its", "units wait for their")
        lines.append(f"{units} silent owner's disk: {', '.join(pinned[:PINNED_MAX])}{more}")
    for name, units in body.get("bypassed", {}).items():
        lines.append(f"{name} was dead when the ring changed: others hold {units} units for it until it is back")
    return lines


def _members(body: dict[str, Any], *, with_colours: bool) -> list[str]:
    """Lay out the members, a line each, with their marks."""
    has_places = any(member["zone"] or member["rack"] for member in body["members"])
    is_changing = any(member["change"] for member in body["members"])
    header = ["", "NAME", "WEIGHT", *(["ZONE", "RACK"] if has_places else []), "SHARE", "UNITS"]
    header += [*(["NEXT", "CHANGE"] if is_changing else []), "BYTES"]
    rows = []
    for number, member in enumerate(body["members"]):
        size = None if member["bytes"] is None else bytes_text(member["bytes"])
        places = [member["zone"] or None, member["rack"] or None] if has_places else []
        change = [member["next_units"], member["change"]] if is_changing else []
        known = [picture.mark_of(number), member["name"], member["weight"], *places]
        rows.append([*known, f"{member['share'] * 100:.1f}%", member["units"], *change, size])
    head, *lines = table(rows, header).split("\n")
    if with_colours:
        lines = [picture.paint(line[0], number) + line[1:] for number, line in enumerate(lines)]
    silent = [f"{member['name']}: {member['error']}" for member in body["members"] if member["error"]]
    return [head, *lines, *silent]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def plan_text(body: dict[str, Any]) -> str:
    """Tell the body of ``POST /v1/ring/plan``, whose texts are printable."""
    names = {"add": "add", "remove": "remove", "nodes": "nodes", "replication_factor": "replication factor"}
    steps = [
        (f"{names[step['change']]} {step['what']}", step["units"], step["copies"], bytes_text(step["bytes"]))
        for step in body["steps"]
    ]
    if len(steps) > 1:
        steps.append(("together", None, body["copies"], bytes_text(body["bytes"])))
    rows = [
        (
            node["name"],
            node["units_before"],
            node["units_after"],
            bytes_text(node["bytes_before"]),
            bytes_text(node["bytes_after"]),
            node["copies"],
            bytes_text(node["bytes"]),
        )
        for node in body["nodes"]
    ]
    lines = [table(steps, ("CHANGE", "UNITS", "COPIES", "BYTES")), ""]
    lines.append(table(rows, ("NODE", "UNITS", "THEN", "HOLDS", "THEN", "TAKES", "BYTES")))
    even = f"{body['over_quota_before']:.2f} -> {body['over_quota_after']:.2f}"
    lines += ["", f"highest load over its node's part: {even} (1 is even). Nothing was changed."]
    if body["after_change"]:
        lines.append("A change is under way; the plan begins where that ends.")
    lines += _waits(body)
    if body["unknown"]:
        lines.append(f"{body['unknown']} copies are of units whose size nobody told; they are not in the bytes.")
    lines += [f"{each['name']} did not tell what it holds: {each['error']}" for each in body["silent"]]
    return "\n".join(lines)


def _waits(body: dict[str, Any]) -> list[str]:
    """Say what the issuer would not begin as things are, and what that waits for."""
    if not body["waits_for"]:
        return []
    ready, steps = body["steps_ready"], len(body["steps"])
    which = f"only the first {_count(ready, 'step')} of {steps}" if ready else "none of it"
    return [
        f"The issuer begins {which} as things are:",
        *(f"waits for {each['name']}: {each['reason']}" for each in body["waits_for"]),
    ]
