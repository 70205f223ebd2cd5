"""What CLUSTER answers: which node serves which of Redis' 16,384 slots.

Sans-I/O. A unit is a run of slots, so a slot belongs to one unit and is served best by the first member of its set. Any
node answers for any key; a client that follows this map saves one hop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from frys_node.base.types import Address, NodeId
from frys_node.base.units import SLOTS
from frys_node.plugins.cache.resp import encode

NODE_ID_CHARS = 40
"""Redis' node ids are that long; ours are followed by zeros."""

BUS_OFFSET = 10_000
"""CLUSTER NODES names a bus port; there is none, so it names Redis' usual one."""


class Server(NamedTuple):
    """A node that serves Redis clients."""

    node: NodeId
    address: Address
    is_up: bool

    @property
    def id(self) -> str:
        """The id in Redis' length."""
        return self.node.ljust(NODE_ID_CHARS, "0")


class SlotRange(NamedTuple):
    """Slots that are served by the same nodes, the best one first."""

    first: int
    last: int
    servers: tuple[Server, ...]


def ranges(sets: Sequence[tuple[Server, ...]]) -> list[SlotRange]:
    """Return the slots' servers from those of each unit, neighbours with equal ones joined."""
    found: list[SlotRange] = []
    count = len(sets)
    for number, servers in enumerate(sets):
        first = -(-number * SLOTS // count)
        last = -(-(number + 1) * SLOTS // count) - 1
        if found and found[-1].servers == servers:
            found[-1] = found[-1]._replace(last=last)
        else:
            found.append(SlotRange(first, last, servers))
    return found


def firsts(found: Sequence[SlotRange]) -> list[SlotRange]:
    """Return the ranges with their first servers alone, neighbours of the same one joined.

    Here a node is first for some slots and second for others. redis-py takes each node for what the last range that
    names it says, and sums and scans over those that it takes for masters.
    """
    joined: list[SlotRange] = []
    for first, last, servers in found:
        if joined and joined[-1].servers == servers[:1]:
            joined[-1] = joined[-1]._replace(last=last)
        else:
            joined.append(SlotRange(first, last, servers[:1]))
    return joined


def slots(found: Sequence[SlotRange], protocol: int) -> bytes:
    """Return the reply to CLUSTER SLOTS."""
    reply = [
        [
            part.first,
            part.last,
            *([server.address.host, server.address.port, server.id, {}] for server in part.servers),
        ]
        for part in found
    ]
    return encode.encode(reply, protocol)


def _masters(found: Sequence[SlotRange]) -> dict[Server, list[SlotRange]]:
    """Return the slots of each first server, runs joined whoever comes second."""
    masters: dict[Server, list[SlotRange]] = {}
    for part in found:
        parts = masters.setdefault(part.servers[0], [])
        if parts and parts[-1].last == part.first - 1:
            parts[-1] = parts[-1]._replace(last=part.last)
        else:
            parts.append(part)
    return masters


def shards(found: Sequence[SlotRange], protocol: int) -> bytes:
    """Return the reply to CLUSTER SHARDS: one for each first server, with its slots, and no replicas.

    Those differ from unit to unit here, and a node that is master of one shard would be replica in others, which no
    client expects.
    """
    reply = []
    for server, parts in _masters(found).items():
        node: dict[str, Any] = {
            "id": server.id,
            "port": server.address.port,
            "ip": server.address.host,
            "endpoint": server.address.host,
            "role": "master",
            "replication-offset": 0,
            "health": "online" if server.is_up else "failed",
        }
        bounds = [bound for part in parts for bound in (part.first, part.last)]
        reply.append({"slots": bounds, "nodes": [node]})
    return encode.encode(reply, protocol)


def nodes(found: Sequence[SlotRange], myself: NodeId, others: Sequence[Server]) -> str:
    """Return the text of CLUSTER NODES."""
    masters = _masters(found)
    lines = []
    for server in sorted({*masters, *others}):
        flags = "myself,master" if server.node == myself else "master" if server.is_up else "master,fail"
        link = "connected" if server.is_up else "disconnected"
        text = " ".join(
            f"{part.first}-{part.last}" if part.first < part.last else str(part.first)
            for part in masters.get(server, [])
        )
        host, port = server.address
        lines.append(f"{server.id} {host}:{port}@{port + BUS_OFFSET} {flags} - 0 0 0 {link} {text}".rstrip())
    return "\n".join(lines) + "\n"


def info(found: Sequence[SlotRange], epoch: int, known: int) -> str:
    """Return the text of CLUSTER INFO."""
    masters = _masters(found)
    up = sum(part.last - part.first + 1 for part in found if part.servers[0].is_up)
    facts = {
        "cluster_enabled": 1,
        "cluster_state": "ok" if up == SLOTS else "fail",
        "cluster_slots_assigned": SLOTS,
        "cluster_slots_ok": up,
        "cluster_slots_pfail": 0,
        "cluster_slots_fail": SLOTS - up,
        "cluster_known_nodes": known,
        "cluster_size": len(masters),
        "cluster_current_epoch": epoch,
        "cluster_my_epoch": epoch,
    }
    return "".join(f"{name}:{value}\r\n" for name, value in facts.items())
