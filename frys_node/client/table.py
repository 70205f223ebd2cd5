"""The ring as a client knows it: the table of ``GET /v1/placement``.

Sans-I/O. An immutable value. It says where a request is served soonest; nothing rests on its being right, because any
node serves any request and checks ownership itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from frys_node.base.errors import InvalidAddress, RemoteError
from frys_node.base.types import Address
from frys_node.base.units import SLOTS, partition_of, shard_of
from frys_node.client.calls import Place

UNUSABLE = 2
_UNWELL = frozenset({"slow", "stalled", "degraded"})

EpochKey = tuple[int, int]


class _Node(msgspec.Struct, frozen=True):
    id: str
    http: str
    status: str
    condition: str
    name: str = ""


class _Body(msgspec.Struct, frozen=True):
    epoch: str
    partitions: int
    nodes: list[_Node]
    cache: list[list[int]]
    workflow: list[list[int]]
    collections: dict[str, list[list[int]]]


_decode = msgspec.json.Decoder(_Body).decode


class Server(msgspec.Struct, frozen=True):
    """A node that serves HTTP. `rank` is 0 for one that does well, 1 for one that does not, 2 for one that is gone."""

    name: str
    address: Address
    rank: int


def epoch_key(text: str) -> EpochKey | None:
    """Return an epoch as it is compared, None if the text is none."""
    term, dot, seq = text.partition(".")
    if not (dot and term.isascii() and term.isdigit() and seq.isascii() and seq.isdigit()):
        return None
    return int(term), int(seq)


class Table:
    """Who holds what, under one epoch."""

    __slots__ = ("_body", "epoch", "servers")

    def __init__(self, data: bytes) -> None:
        """Read the body of an answer.

        Raises:
            RemoteError: It is no such table.
        """
        try:
            body = _decode(data)
            servers = [_server(node) for node in body.nodes]
            epoch = epoch_key(body.epoch)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, InvalidAddress) as error:
            raise RemoteError(f"the placement that a node answered is unreadable: {error}") from error
        numbers = {
            n for units in (body.cache, body.workflow, *body.collections.values()) for unit in units for n in unit
        }
        if (
            epoch is None
            or min(body.partitions, len(body.cache), len(body.workflow)) < 1
            or (numbers and not 0 <= min(numbers) <= max(numbers) < len(servers))
        ):
            raise RemoteError("the placement that a node answered does not add up")
        self.epoch = epoch
        self.servers: Sequence[Server | None] = servers
        self._body = body

    def addresses(self) -> list[Server]:
        """Every node that serves HTTP."""
        return [server for server in self.servers if server is not None]

    def holders(self, place: Place | None) -> list[Server]:
        """Return who holds what a request is about, the unit's first member first; empty when that is unknown."""
        return [server for number in self._numbers(place) if (server := self.servers[number]) is not None]

    def _numbers(self, place: Place | None) -> Sequence[int]:
        body = self._body
        match place:
            case ("cache", slot):
                return body.cache[slot * len(body.cache) // SLOTS]
            case ("run", run):
                return body.workflow[partition_of(run, len(body.workflow))]
            case ("point", name, key):
                shards = body.collections.get(name)
                return shards[shard_of(key, len(shards))] if shards else ()
            case ("collection", name):
                return _by_shards(body.collections.get(name, []))
            case _:
                return ()


def _server(node: _Node) -> Server | None:
    if not node.http:
        return None
    is_gone = node.status in ("dead", "left")
    rank = UNUSABLE if is_gone else int(node.status != "alive" or node.condition in _UNWELL)
    return Server(node.name or node.id, Address.parse(node.http), rank)


def _by_shards(shards: Sequence[Sequence[int]]) -> list[int]:
    """Return the nodes that hold most of a collection: a search there asks fewest others."""
    counts: dict[int, int] = {}
    for shard in shards:
        for number in shard:
            counts[number] = counts.get(number, 0) + 1
    most = max(counts.values(), default=0)
    return sorted(number for number, count in counts.items() if count == most)
