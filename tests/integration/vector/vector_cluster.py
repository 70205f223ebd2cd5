"""Vector plugins of several nodes on the shipped fakes: real handlers, real plugin code, no sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from frys_node.base.types import NodeId
from frys_node.kernel.bus import Bus
from frys_node.kernel.context import PluginContext, Services
from frys_node.kernel.services.http import HTTP
from frys_node.kernel.services.replication import REPLICATION, Replication
from frys_node.kernel.services.rpc import RPC, Rpc
from frys_node.kernel.services.topology import TOPOLOGY, Topology
from frys_node.observe.metrics import Metrics
from frys_node.plugins.vector.config import VectorConfig
from frys_node.plugins.vector.plugin import VectorPlugin
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.rpc import RpcNetwork, open_rpc_network
from frys_node.testing.services import FakeHttp, ServiceCluster


async def load_plugin(
    node: NodeId,
    http: FakeHttp,
    replication: Replication,
    topology: Topology,
    rpc: Rpc,
    *,
    nursery: trio.Nursery,
    config: VectorConfig | None = None,
) -> VectorPlugin:
    """Load the plugin of one node over these services."""
    services = Services()
    services.provide(HTTP, http)
    services.provide(REPLICATION, replication)
    services.provide(TOPOLOGY, topology)
    services.provide(RPC, rpc)
    context = PluginContext(
        node=node,
        name="vector",
        boot=1,
        data_dir=Path("unused"),
        clock=FakeClock(),
        entropy=FakeEntropy(node),
        disk=FakeDisk(),
        executor=InlineExecutor(),
        bus=Bus(),
        services=services,
        metrics=Metrics(),
        config=config or VectorConfig(),
        nursery=nursery,
    )
    plugin = VectorPlugin()
    assert plugin.metadata().requires
    await plugin.init(context)
    await plugin.on_load()
    return plugin


class VectorCluster:
    """Nodes with a vector plugin each."""

    def __init__(self, names: list[str], network: RpcNetwork, replication_factor: int) -> None:
        self.cluster = ServiceCluster(names, replication_factor=replication_factor)
        self.network = network
        self.http = {name: FakeHttp() for name in names}
        self.plugins: dict[str, VectorPlugin] = {}

    def stop(self, name: str) -> None:
        """Take a node down: it answers nothing and keeps what it holds."""
        self.cluster.down.add(NodeId(name))
        self.network.stop(name)

    async def load(self, name: str, config: VectorConfig, nursery: trio.Nursery) -> None:
        """Load the plugin of one node."""
        node = NodeId(name)
        self.plugins[name] = await load_plugin(
            node,
            self.http[name],
            self.cluster.replication[node],
            self.cluster.topology[node],
            self.network.node(name),
            nursery=nursery,
            config=config,
        )

    async def call(self, method: str, target: str, body: bytes | Any = b"", *, node: str = "a") -> tuple[int, Any]:
        """Serve one request on a node; returns the status and the decoded body."""
        response = await self.http[node].request(method, target, body)
        return response.status, msgspec.json.decode(response.body)

    async def result(self, method: str, target: str, body: bytes | Any = b"", *, node: str = "a") -> Any:
        """Serve one request that must succeed; returns the result."""
        status, answer = await self.call(method, target, body, node=node)
        assert status == 200, answer
        assert answer["status"] == "ok"
        return answer["result"]


@asynccontextmanager
async def open_vector_cluster(
    names: str = "abc", *, replication_factor: int = 3, config: VectorConfig | None = None
) -> AsyncIterator[VectorCluster]:
    """Load the plugins of a cluster whose nodes are named by single letters."""
    async with open_rpc_network() as network, trio.open_nursery() as nursery:
        cluster = VectorCluster(list(names), network, replication_factor)
        for name in names:
            await cluster.load(name, config or VectorConfig(), nursery)
        yield cluster
        for plugin in cluster.plugins.values():
            await plugin.on_unload()
            await plugin.cleanup()
        nursery.cancel_scope.cancel()
