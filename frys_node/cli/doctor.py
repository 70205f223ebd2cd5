"""``frys-node doctor``: what is wrong as far as one node can tell, each with what to do about it.

It asks nothing that the other verbs do not show. Exit code 1 if something was found, so that a script can ask too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from shlex import quote
from typing import Any, NamedTuple

from frys_node.base.errors import NotFound, NotReady
from frys_node.cli.admin import AdminClient, add_common, show
from frys_node.cli.members import find_absent
from frys_node.cli.terminal import escaped

WAITS_SHOWN_MAX = 3
"""Reasons of a step that are named."""


class Finding(NamedTuple):
    """Something that is wrong."""

    about: str
    what: str
    fix: str


class Seen(NamedTuple):
    """What the node answered."""

    status: dict[str, Any]
    members: list[dict[str, Any]]
    absent: list[str]
    ring: dict[str, Any] | None
    issuer: dict[str, Any] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask the node, and say what is wrong."""
    client = AdminClient(arguments)
    members = client.call("GET", "/v1/members")
    seen = Seen(
        client.call("GET", "/v1/status"),
        members["members"],
        find_absent(client, members),
        _maybe(client, "/v1/ring/show"),
        _maybe(client, "/v1/issuer"),
    )
    found = list(findings(seen))
    show(arguments, {"findings": [finding._asdict() for finding in found]}, text(seen, found))
    return 1 if found else 0


def _maybe(client: AdminClient, path: str) -> dict[str, Any] | None:
    """Return a body, None of a node that has no record yet: `status` says what it waits for."""
    try:
        body: dict[str, Any] = client.call("GET", path)
    except (NotReady, NotFound):
        return None
    return body


def findings(seen: Seen) -> Iterator[Finding]:
    """Yield what is wrong, the gravest of each node's own first."""
    yield from _of_the_node(seen.status)
    yield from _of_members(seen)
    weights = _weights(seen)
    if seen.absent or any(member["status"] != "alive" and weights.get(member["id"]) for member in seen.members):
        # With everybody there they say what one death would stop.
        yield from _of_the_data(_section(seen.status, "replication"))
    if seen.issuer is not None:
        yield from _of_the_issuer(seen.issuer)
    if seen.ring is not None and seen.ring["phase"] == "stable" and seen.ring["waits_for"]:
        # Between two stable records it only says how far a step is.
        waits = "; ".join(f"{each['name']}: {each['reason']}" for each in seen.ring["waits_for"][:WAITS_SHOWN_MAX])
        yield Finding(
            "ring", f"no change can begin: {waits}", "start these, or remove them: frys-node node remove NAME"
        )


def _of_the_node(status: dict[str, Any]) -> Iterator[Finding]:
    name, log = status["node"]["name"], f"see {status['node']['data_dir']}/node.log"
    for section, body in status.items():
        if isinstance(body, dict) and set(body) == {"error"}:
            yield Finding(name, f"cannot tell of its {section}: {body['error']}", log)
    replication, topology = _section(status, "replication"), _section(status, "topology")
    for waits in status["waiting_for"]:
        yield Finding(name, f"is not ready: {waits}", log)
    if refusal := replication.get("disk_refuses"):
        yield Finding(name, f"its disk takes no writes: {refusal}", "make room; it goes on by itself")
    for unit in replication.get("damaged", []):
        yield Finding(name, f"{unit['unit']} lost part of what was acknowledged", unit["fix"])
    if topology.get("frozen"):
        yield Finding(name, f"two records with the key {topology['frozen']} were seen", topology["do"])
    for component in status["components"]:
        if component["error"]:
            yield Finding(name, f"{component['name']} is {component['state']}: {component['error']}", log)
    settings = status.get("settings_differ", [])
    for setting in settings if isinstance(settings, list) else ():
        told = f"{setting['member']} has {setting['setting']} = {setting['there']}, this node has {setting['here']}"
        yield Finding(name, told, "give every node the same, and start it again")


def _section(status: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what a component says of itself; nothing if it has not started."""
    body: dict[str, Any] = status.get(name) or {}
    return body


def _of_the_data(replication: dict[str, Any]) -> Iterator[Finding]:
    for line in replication.get("quorums", []):
        yield Finding("data", line, "start the members that are down, or remove them: frys-node node remove NAME")
    for line in replication.get("tombstones_wait_for", []):
        yield Finding("data", line, "nothing is lost; deletions take memory until then")


def _weights(seen: Seen) -> dict[str, float]:
    """Return who is on the ring, by weight: gossip remembers for days who was removed. 0: but for its partitions."""
    return {} if seen.ring is None else {member["id"]: member["weight"] for member in seen.ring["members"]}


def _of_members(seen: Seen) -> Iterator[Finding]:
    weights = _weights(seen)
    for member in seen.members:
        name, status, condition = member["name"], member["status"], member["condition"]
        said = quote(name)
        weight = weights.get(member["id"])
        if status in ("dead", "suspect") and (weight or seen.ring is None):
            fix = f"frys-node why {said}; start it again, or, gone for good: frys-node node remove {said}"
            yield Finding(name, f"is {status}", fix)
        elif status == "dead" and weight == 0:
            fix = f"start it again and it hands them over, or give their runs up: node remove {said} --accept-loss"
            yield Finding(name, "was removed, and workflow partitions wait for its disk", fix)
        elif status == "alive" and condition != "ok":
            yield Finding(name, f"is {condition}", f"frys-node why {said}")
    for node in seen.absent:
        fix = f"start it again, or, gone for good: frys-node node remove {node}"
        yield Finding(node, "is on the ring and was not heard of since this node started", fix)


def _of_the_issuer(issuer: dict[str, Any]) -> Iterator[Finding]:
    name = issuer["name"]
    if not issuer["answers"]:
        fix = f"start {name}; if it is gone: frys-node issuer promote, on the node that shall have the role"
        yield Finding(name, "writes the record and does not answer: joins, leaves and new collections wait", fix)
    elif not issuer["can_admit"]:
        fix = "start a member that has it, the old issuer or a standby, and: frys-node issuer handover NODE"
        yield Finding(name, "writes the record without the authority's key: no node can join", fix)


def text(seen: Seen, found: list[Finding]) -> str:
    """Tell the findings, or that there are none."""
    if not found:
        alive = sum(member["status"] == "alive" for member in seen.members)
        ring = f"the ring is {seen.ring['phase']} at {seen.ring['epoch']}" if seen.ring is not None else "no ring yet"
        issuer = f", {seen.issuer['name']} writes its record" if seen.issuer is not None else ""
        return str(escaped(f"nothing is wrong as {seen.status['node']['name']} sees it: {alive} alive, {ring}{issuer}"))
    lines = []
    for finding in found:
        lines += [f"{finding.about}: {finding.what}", f"  {finding.fix}"]
    return "\n".join(map(str, map(escaped, lines)))
