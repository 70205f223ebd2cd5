"""The peers of one node across its runs: written when they change, and seeds asked while nobody else is known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from frys_node.base.errors import FrysError, StorageError
from frys_node.base.ports import Disk, Executor, Network
from frys_node.base.types import Address, NodeId
from frys_node.observe.log import get_logger
from membership.discovery import PEERS_PATH, encode_peers, load_peers, resolve_seeds
from membership.effects import Peer

SEEDS_RETRY_S = 5.0
"""Pause between looks whether this node is alone."""

INTRODUCE_TIMEOUT_S = 10.0

_LOG = get_logger(__name__)


class PeersFile:
    """Keeps ``peers.json`` current: the latest list wins, one write at a time."""

    def __init__(self, disk: Disk, executor: Executor, drop: Callable[[str], None]) -> None:
        self._disk = disk
        self._executor = executor
        self._drop = drop
        self._pending: Sequence[Peer] | None = None
        self._wake = trio.Event()

    async def load(self) -> list[Peer]:
        """Return what the last run left."""
        return await load_peers(self._disk, self._executor)

    def put(self, peers: Sequence[Peer]) -> None:
        """Have the list written soon."""
        self._pending = peers
        self._wake.set()

    async def run(self) -> None:
        """Write whatever is put, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await self.flush()

    async def flush(self) -> None:
        """Write what is waiting. A disk that refuses is counted; the next change tries again."""
        peers, self._pending = self._pending, None
        if peers is None:
            return
        try:
            await self._executor.run(self._disk.write, PEERS_PATH, encode_peers(peers))
        except StorageError as error:
            self._drop("peers_not_written")
            _LOG.warning("membership.peers_not_written", code=error.code, error=error.message)


class SeedSeeker:
    """Asks the seeds whenever this node is alone; names are resolved anew each time."""

    def __init__(
        self,
        *,
        node: NodeId,
        seeds: Sequence[str],
        network: Network,
        is_alone: Callable[[], bool],
        join: Callable[[Sequence[Peer]], None],
        introduce: Callable[[Address], Awaitable[NodeId | None]] | None,
    ) -> None:
        """Without `introduce`, which dials an address and says who is there, seeds are pinged by gossip packets."""
        self._node = node
        self._seeds = seeds
        self._network = network
        self._is_alone = is_alone
        self._join = join
        self._introduce = introduce

    async def run(self) -> None:
        """Seek until cancelled."""
        while True:
            if self._is_alone():
                peers = await resolve_seeds(self._network, self._seeds)
                if self._introduce is None:
                    self._join(peers)
                else:
                    async with trio.open_nursery() as nursery:
                        for peer in peers:
                            nursery.start_soon(self._ask, peer.address, self._introduce)
            await trio.sleep(SEEDS_RETRY_S)

    async def _ask(self, address: Address, introduce: Callable[[Address], Awaitable[NodeId | None]]) -> None:
        try:
            with trio.move_on_after(INTRODUCE_TIMEOUT_S):
                node = await introduce(address)
                if node is not None and node != self._node:
                    self._join([Peer(node, address)])
        except FrysError as error:
            _LOG.debug("membership.seed_unreachable", seed=str(address), code=error.code, error=error.message)
