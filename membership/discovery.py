"""Finding the first peers: configured seeds, resolved in parallel, and the peers remembered from the last run.

A seed is ``host:port``, ``[v6]:port``, a bare name with the default port, or a service such as
``_frys._tcp.example.org``, whose SRV records name hosts and ports. A DNS name stands for all of its addresses, and is
resolved again on every try, because pods and cloud machines move. A headless service of Kubernetes has both: its name
resolves to the pods' addresses, and ``_<port>._tcp.<name>`` to their names and ports; the resolver's search domains
complete both.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import trio

from frys_node.base.errors import FrysError, StorageError
from frys_node.base.ports import Disk, Executor, Network
from frys_node.base.types import Address, NodeId
from membership.effects import Peer

DEFAULT_PORT = 7946
RESOLVE_TIMEOUT_S = 5.0
"""Longest wait for one name; other seeds are not held up by it."""

ADDRESSES_PER_SEED_MAX = 64
PEERS_PATH = "peers.json"
PEERS_BYTES_MAX = 1 << 20
PEERS_VERSION = 1


class _StoredPeer(msgspec.Struct, frozen=True):
    node: str
    host: str
    port: int


class _StoredPeers(msgspec.Struct, frozen=True):
    version: int
    peers: list[_StoredPeer]


async def resolve_seeds(network: Network, seeds: Sequence[str]) -> list[Peer]:
    """Return the addresses of all seeds, in the order of the seeds; those that do not resolve are left out.

    Raises:
        InvalidAddress: A seed is no address at all. Nothing was asked.
    """
    addresses = [Address.parse(seed, DEFAULT_PORT) for seed in seeds]
    found: list[Sequence[Address]] = [()] * len(addresses)

    async def resolve(index: int, seed: Address) -> None:
        with trio.move_on_after(RESOLVE_TIMEOUT_S):
            try:
                if seed.is_service:
                    found[index] = await network.resolve_service(seed.host)
                else:
                    found[index] = [Address(host, seed.port) for host in await network.resolve(seed.host)]
            except (FrysError, OSError):
                found[index] = ()

    async with trio.open_nursery() as nursery:
        for index, address in enumerate(addresses):
            nursery.start_soon(resolve, index, address)
    peers = {a: Peer(NodeId(""), a) for resolved in found for a in resolved[:ADDRESSES_PER_SEED_MAX]}
    return list(peers.values())


def encode_peers(peers: Sequence[Peer]) -> bytes:
    """Return the content of the peers file."""
    stored = [_StoredPeer(peer.node, peer.address.host, peer.address.port) for peer in peers]
    return msgspec.json.format(msgspec.json.encode(_StoredPeers(PEERS_VERSION, stored)), indent=1) + b"\n"


def decode_peers(data: bytes) -> list[Peer]:
    """Read the content of a peers file; anything unreadable counts as no peers, since seeds and joins remain."""
    if len(data) > PEERS_BYTES_MAX:
        return []
    try:
        stored = msgspec.json.decode(data, type=_StoredPeers)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return []
    if stored.version != PEERS_VERSION:
        return []
    return [Peer(NodeId(p.node), Address(p.host, p.port)) for p in stored.peers if p.host and 0 < p.port <= 65_535]


async def load_peers(disk: Disk, executor: Executor) -> list[Peer]:
    """Return the peers remembered from the last run; none when there is no readable file."""
    try:
        data = await executor.run(disk.read, PEERS_PATH)
    except StorageError:
        return []
    return [] if data is None else decode_peers(data)
