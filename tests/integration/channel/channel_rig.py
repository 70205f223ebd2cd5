"""Real nodes' channels on loopback, for the integration tests of the channel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from frys_node.base.types import Address, NodeId
from frys_node.channel.bootstrap import create_cluster, join_cluster
from frys_node.channel.driver import Channel, ChannelSettings
from frys_node.kernel.services.rpc import Method
from frys_node.observe.metrics import Counter, Gauge, Metrics
from frys_node.secure.identity import Identity, save_identity
from frys_node.secure.stored import next_boot
from frys_node.testing.identities import issue_member
from frys_node.transport.clock import SystemClock
from frys_node.transport.disk import DirectoryDisk
from frys_node.transport.entropy import SystemEntropy
from frys_node.transport.network import SystemNetwork
from frys_node.trust.issuer import JOIN_PATH

ECHO: Method[bytes, bytes] = Method("test.echo", bytes, bytes)
LOOPBACK = Address("127.0.0.1", 0)
NETWORK = SystemNetwork()
ENTROPY = SystemEntropy()
CLOCK = SystemClock()


class Node:
    """One node's channel with what a test looks at."""

    def __init__(self, disk: DirectoryDisk, identity: Identity, channel: Channel, metrics: Metrics) -> None:
        self.disk = disk
        self.identity = identity
        self.channel = channel
        self.metrics = metrics
        self.id = identity.node_id
        self.address = channel.advertise
        self.notes: list[tuple[NodeId, bytes]] = []
        self._changed = trio.Event()
        channel.serve(ECHO, self._echo)
        channel.on_note("n", self._note)

    async def _echo(self, _caller: NodeId, body: bytes) -> bytes:
        return body

    def _note(self, sender: NodeId, body: bytes) -> None:
        self.notes.append((sender, body))
        self._changed.set()

    async def until_notes(self, count: int) -> None:
        """Wait for so many notes."""
        while len(self.notes) < count:
            self._changed = trio.Event()
            await self._changed.wait()

    def token(self) -> str:
        """The text of the join-token file."""
        data = self.disk.read(JOIN_PATH)
        assert data is not None
        return data.decode()

    def refused(self) -> dict[str, int]:
        """Refusals so far, by reason."""
        counter = next(metric for metric in self.metrics if metric.name == "frys_channel_refused_total")
        assert isinstance(counter, Counter)
        return {labels[0]: int(value) for labels, value in counter.values.items()}

    def gauge(self, name: str) -> float:
        """The value of a gauge now."""
        gauge = next(metric for metric in self.metrics if metric.name == name)
        assert isinstance(gauge, Gauge)
        assert gauge.source is not None
        return gauge.source()

    async def until_refused(self, reason: str, count: int = 1) -> None:
        """Wait until so many refusals with the reason were counted."""
        while self.refused().get(reason, 0) < count:  # noqa: ASYNC110 - a plain counter has nothing to wait on
            await trio.sleep(0.005)


DEFAULTS = ChannelSettings()


async def open_node(disk: DirectoryDisk, identity: Identity, settings: ChannelSettings = DEFAULTS) -> Node:
    """Bind a free port and build the channel."""
    metrics = Metrics()
    channel = Channel(
        identity=identity,
        boot=next_boot(disk, ENTROPY),
        network=NETWORK,
        listener=await NETWORK.listen(LOOPBACK),
        clock=CLOCK,
        entropy=ENTROPY,
        disk=disk,
        metrics=metrics,
        settings=settings,
    )
    return Node(disk, identity, channel, metrics)


async def create(directory: Path, name: str, cluster: str = "test", settings: ChannelSettings = DEFAULTS) -> Node:
    """A new cluster's first node."""
    disk = DirectoryDisk(directory)
    return await open_node(disk, create_cluster(disk, ENTROPY, CLOCK, cluster_name=cluster, node_name=name), settings)


async def join(
    directory: Path,
    seed: Node,
    name: str,
    *,
    token: str | None = None,
    chosen: bool = True,
    settings: ChannelSettings = DEFAULTS,
) -> Node:
    """A node that joins through a seed."""
    disk = DirectoryDisk(directory)
    outcome = await join_cluster(
        NETWORK,
        disk,
        ENTROPY,
        CLOCK,
        seeds=[seed.address],
        token=seed.token() if token is None else token,
        name=name,
        name_chosen=chosen,
        expect_cluster=None,
        advertise=LOOPBACK,
    )
    node = await open_node(disk, outcome.identity, settings)
    for peer in outcome.peers:
        node.channel.learn(peer.node, peer.address, peer.name)
    return node


async def open_unadmitted(stolen: Identity, directory: Path) -> Node:
    """A node that nobody let in: whoever has a copy of the authority's key makes it a certificate that is in order."""
    disk, made = DirectoryDisk(directory), issue_member(stolen, "ghost", ENTROPY, CLOCK)
    save_identity(disk, made)
    return await open_node(disk, made)


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    """Run a node's channel."""
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: node.channel.run(task_status=task_status))
        yield node
        nursery.cancel_scope.cancel()
