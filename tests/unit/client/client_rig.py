"""A table of a made-up cluster, and what its nodes answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from frys_node.base.types import Address
from frys_node.client.calls import Answer, Call, Failure, Loss
from frys_node.client.core import Core
from frys_node.client.run import Flight, Run

A, B, C = (Address("127.0.0.1", port) for port in (8001, 8002, 8003))
NODES = (A, B, C)


def placement(
    epoch: str = "1.5",
    *,
    cache: Sequence[Sequence[int]] = ((0, 1), (1, 2), (2, 0), (0, 2)),
    status: Sequence[str] = ("alive", "alive", "alive"),
    condition: Sequence[str] = ("ok", "ok", "ok"),
    collections: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> bytes:
    """The body of `GET /v1/placement` for three nodes and four units of a kind."""
    nodes = [
        {"id": f"{number}", "name": f"n{number}", "http": str(address), "status": status[number]}
        | {"condition": condition[number]}
        for number, address in enumerate(NODES)
    ]
    body = {"epoch": epoch, "partitions": len(cache), "nodes": nodes, "cache": cache, "workflow": [[0], [1], [2], [0]]}
    return msgspec.json.encode(body | {"collections": collections or {}})


def known(**others: object) -> Core:
    """A core that has learnt a table at the instant 0."""
    core = Core([A])
    core.learn(placement(**others), 0.0)  # type: ignore[arg-type]
    return core


def answer(status: int = 200, code: str = "", *, epoch: str = "1.5", body: bytes = b"{}") -> Answer:
    """An answer of a node, an error if it has a code."""
    if code:
        body = msgspec.json.encode({"error": {"code": code, "message": "no", "hint": ""}})
    return Answer(status, {"x-frys-epoch": epoch}, body)


BROKEN = Failure(Loss.BROKEN)
LATE = Failure(Loss.LATE)
REFUSED = Failure(Loss.CONNECT)


def get(slot: int = 0, **fields: object) -> Call:
    """A request about a slot of the cache."""
    return Call("GET", f"/v1/cache/default/k{slot}", place=("cache", slot))._replace(**fields)  # type: ignore[arg-type]


def started(core: Core, *calls: Call, deadline_s: float = 10.0) -> tuple[Run, list[Flight]]:
    """A run that began at the instant 1, and its first flights."""
    run = Run(core, calls, deadline_s)
    return run, run.begin(1.0)
