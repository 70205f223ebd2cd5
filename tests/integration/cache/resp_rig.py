"""Redis clients of a fake cluster, without sockets: bytes in and out, over the real session, executor and services."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from frys_node.base.access import ADMIN, Principal
from frys_node.base.types import Address, NodeId, UnitId
from frys_node.observe.metrics import Metrics
from frys_node.plugins.cache.changer import CHANGE, Changer
from frys_node.plugins.cache.config import CacheConfig
from frys_node.plugins.cache.driver import CacheService
from frys_node.plugins.cache.keyspace import Keyspace
from frys_node.plugins.cache.memory import CacheMemory
from frys_node.plugins.cache.resp import about
from frys_node.plugins.cache.resp.executor import Executor
from frys_node.plugins.cache.resp.hub import Hub
from frys_node.plugins.cache.resp.reader import ProtocolError, RequestReader
from frys_node.plugins.cache.resp.session import Limits, Redirect, Session, Surroundings
from frys_node.plugins.cache.resp.slots import Server, SlotRange, ranges
from frys_node.plugins.cache.resp.table import COMMANDS
from frys_node.testing.rpc import RpcNetwork
from frys_node.testing.services import ServiceCluster

TOKEN = b"the-token"


class FakeView:
    """A cluster view in which every node listens on its own address."""

    epoch = 7

    def __init__(self, cluster: ServiceCluster, node: NodeId, listeners: Mapping[NodeId, Address]) -> None:
        self._cluster = cluster
        self._listeners = listeners
        self._node = node
        self.redirects: dict[bytes, Redirect] = {}

    @property
    def myself(self) -> Server:
        return self._server(self._node)

    def _server(self, node: NodeId) -> Server:
        address = self._listeners.get(node, Address("10.0.0.1", 6_000 + self._cluster.nodes.index(node)))
        return Server(node, address, node not in self._cluster.down)

    def servers(self) -> list[Server]:
        return [self._server(node) for node in self._cluster.nodes]

    def ranges(self) -> list[SlotRange]:
        units = range(self._cluster.partitions)
        return ranges([tuple(self._server(n) for n in self._cluster.members_of(f"cache/{unit}")) for unit in units])

    def own(self) -> frozenset[UnitId]:
        units = [UnitId(f"cache/{number}") for number in range(self._cluster.partitions)]
        return frozenset(unit for unit in units if self._cluster.members_of(unit)[0] == self._node)

    def redirect(self, key: bytes) -> Redirect | None:
        return self.redirects.get(key)


class Client:
    """One connection to a node (a `Listener`)."""

    def __init__(self, node: CacheNode, *, must_authenticate: bool = False) -> None:
        self._node = node
        self.session = Session(1, node.around, must_authenticate=must_authenticate)
        self._reader = RequestReader(1_000, 1 << 20)
        self.pushed: list[bytes] = []
        self.is_open = True

    def push(self, data: bytes) -> None:
        """Keep what comes unasked."""
        self.pushed.append(data)

    async def send(self, data: bytes) -> bytes:
        """Send bytes and return what comes back."""
        self._reader.is_trusted = self.session.is_known
        out: list[bytes] = []

        async def flush(part: bytes) -> None:
            await trio.lowlevel.checkpoint()
            out.append(part)

        complaint = ""
        pipeline = self._reader.uniform(data)
        step = None if pipeline is None else self.session.plan_uniform(pipeline)
        if step is not None:
            return await self._node.executor.run(self, [step], flush)
        try:
            batch = self._reader.feed(data)
        except ProtocolError as error:
            batch, complaint = error.commands, str(error)
        while batch and not self.session.is_closing:
            steps, done = self.session.plan(batch)
            out.append(await self._node.executor.run(self, steps, flush))
            batch = batch[done:]
        self.is_open = not complaint and not self.session.is_closing
        return b"".join(out) + (f"-ERR {complaint}\r\n".encode() if complaint else b"")

    async def do(self, *words: bytes | str | int) -> bytes:
        """Send one command."""
        return await self.send(command(*words))


def command(*words: bytes | str | int) -> bytes:
    """A command as clients send it."""
    raw = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n%b" % (len(raw), b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw))


class CacheNode:
    """One node of a `RespCluster`."""

    def __init__(self, rig: RespCluster, node: NodeId) -> None:
        cluster, rpc = rig.cluster, rig.network.node(node)
        self.node = node
        self.rpc = rpc
        self.memory = CacheMemory(rig.config.memory_bytes_max, lambda: rig.unix_ms)
        self.memory.configure(rig.config.memory_bytes_max, rig.config.policy, rig.config.quotas, keeps_replies=True)
        cluster.replication[node].register("cache", self.memory.open, durable=False)
        self.metrics = Metrics()
        self.service = CacheService(
            replication=cluster.replication[node],
            topology=cluster.topology[node],
            memory=self.memory,
            config=rig.config,
            metrics=self.metrics,
            now_unix_ms=lambda: rig.unix_ms,
            node=node,
        )
        self.changer = Changer(
            service=self.service,
            topology=cluster.topology[node],
            rpc=rpc,
            is_usable=lambda other: other not in cluster.down,
        )
        rpc.serve(CHANGE, self.changer.answer)
        self.view = FakeView(cluster, node, rig.listeners)
        self.hub = Hub(
            rpc=rpc,
            peers=lambda: [other for other in cluster.nodes if other != node and other not in cluster.down],
            metrics=self.metrics,
        )
        self.keyspace = Keyspace(service=self.service, replication=cluster.replication[node], rpc=rpc)
        self.executor = Executor(
            service=self.service,
            changer=self.changer,
            keyspace=self.keyspace,
            hub=self.hub,
            view=self.view,
            texts=lambda verb, _session, args: f"{verb} {b' '.join(args).decode()}",
        )
        limits = Limits(rig.config.key_bytes_max, rig.config.value_bytes_max, 1_000, 4)
        self.around = Surroundings(
            commands=COMMANDS,
            limits=lambda: limits,
            now_unix_ms=lambda: rig.unix_ms,
            authenticate=lambda token: ADMIN if token == TOKEN else rig.tokens.get(token),
            is_valid=lambda principal: principal in rig.tokens.values(),
            redirect=self.view.redirect,
            settings=lambda: about.settings(rig.config, 6_379),
            describe=lambda session: about.client_line(session, "10.0.0.9:5", 3),
        )

    def client(self, *, must_authenticate: bool = False) -> Client:
        """A new connection."""
        return Client(self, must_authenticate=must_authenticate)


class RespCluster:
    """Nodes that serve Redis clients and share a wall clock."""

    def __init__(
        self, names: str, network: RpcNetwork, nursery: trio.Nursery, config: CacheConfig | None = None
    ) -> None:
        self.cluster = ServiceCluster(list(names), replication_factor=min(3, len(names)))
        self.network = network
        self.nursery = nursery
        self.config = config or CacheConfig()
        self.unix_ms = 5_000_000
        self.tokens: dict[bytes, Principal] = {}
        self.listeners: dict[NodeId, Address] = {}
        """Where nodes listen that have a socket."""
        self.nodes = {name: CacheNode(self, NodeId(name)) for name in names}
