"""The cache plugin's life: load, reload, config changes, sweeping."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from frys_node.base.errors import ReloadRefused
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.bus import Bus
from frys_node.kernel.context import PluginContext, Services
from frys_node.kernel.services.http import HTTP
from frys_node.kernel.services.members import MEMBERS
from frys_node.kernel.services.replication import REPLICATION, Entry, Version
from frys_node.kernel.services.rpc import RPC
from frys_node.kernel.services.topology import TOPOLOGY
from frys_node.observe.metrics import Counter, Gauge, Metrics
from frys_node.plugins.cache.config import CacheConfig
from frys_node.plugins.cache.memory import CacheMemory
from frys_node.plugins.cache.plugin import CachePlugin
from frys_node.plugins.cache.tombstones import Standing
from frys_node.plugins.cache.unit import CacheUnit
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.rpc import RpcNetwork
from frys_node.testing.services import FakeHttp, ServiceCluster

NODE = NodeId("a")


class LoneMember:
    """A cluster of one."""

    @property
    def self_id(self) -> NodeId:
        """This node."""
        return NODE

    def is_usable(self, node: NodeId) -> bool:
        """True of it."""
        return node == NODE


class Node:
    """One node's context for cache plugins."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.cluster = ServiceCluster(["a"], replication_factor=1)
        self.http = FakeHttp()
        self.metrics = Metrics()
        self.nursery = nursery
        self.services = Services()
        self.services.provide(HTTP, self.http)
        self.services.provide(REPLICATION, self.cluster.replication[NODE])
        self.services.provide(TOPOLOGY, self.cluster.topology[NODE])
        self.services.provide(RPC, RpcNetwork().node(NODE))
        self.services.provide(MEMBERS, LoneMember())

    async def load(self, config: CacheConfig) -> CachePlugin:
        """Load a new instance of the plugin."""
        plugin = CachePlugin()
        context = PluginContext(
            node=NODE,
            name="cache",
            boot=1,
            data_dir=Path("unused"),
            clock=FakeClock(),
            entropy=FakeEntropy(),
            disk=FakeDisk(),
            executor=InlineExecutor(),
            bus=Bus(),
            services=self.services,
            metrics=self.metrics,
            config=config,
            nursery=self.nursery,
        )
        await plugin.init(context)
        await plugin.on_load()
        return plugin

    async def status(self, key: str) -> int:
        """The status of a GET."""
        return (await self.http.request("GET", f"/v1/cache/default/{key}")).status

    def memory(self) -> CacheMemory:
        """What the loaded plugin holds."""
        store = self.cluster.replication[NODE].local(UnitId("cache/0"))
        assert isinstance(store, CacheUnit)
        return store.memory

    def read(self, name: str) -> float:
        """A value that is read at scrape time."""
        metric = next(metric for metric in self.metrics if metric.name == name)
        assert isinstance(metric, Gauge | Counter)
        assert metric.source is not None
        return metric.source()


async def test_a_reloaded_cache_serves_what_the_old_one_held() -> None:
    """Units stay with replication; limits and metrics go on over the same memory."""
    async with trio.open_nursery() as nursery:
        node = Node(nursery)
        plugin = await node.load(CacheConfig())
        for number in range(20):
            await node.http.request("PUT", f"/v1/cache/default/k{number}", b"v" * 5_000)
        held = node.read("frys_cache_memory_bytes")
        await plugin.on_unload()
        await plugin.cleanup()
        assert await node.status("k1") == 404
        plugin = await node.load(CacheConfig())
        assert await node.status("k1") == 200
        assert node.read("frys_cache_memory_bytes") == held > 100_000
        assert node.read("frys_cache_entries") == 20
        await plugin.on_config_change(CacheConfig(), CacheConfig(memory_bytes_max=65_536))
        assert node.read("frys_cache_memory_bytes") <= 65_536
        assert await node.status("k0") == 404
        assert await node.status("k19") == 200
        nursery.cancel_scope.cancel()


async def test_a_node_that_is_alone_keeps_no_tombstones_and_one_with_others_does() -> None:
    """By the record: deleted keys leave nothing where there is no other replica, and a gauge shows those elsewhere."""
    async with trio.open_nursery() as nursery:
        node = Node(nursery)
        await node.load(CacheConfig())
        for number in range(20):
            await node.http.request("PUT", f"/v1/cache/default/k{number}", b"v")
            await node.http.request("DELETE", f"/v1/cache/default/k{number}")
        assert node.read("frys_cache_entries") == node.read("frys_cache_tombstones") == 0
        assert node.read("frys_cache_memory_bytes") == 0
        node.cluster.nodes = (NODE, NodeId("b"))
        node.cluster.replication_factor = 2
        node.cluster.seq += 1
        memory = node.memory()
        store = memory.units["cache/7"]
        store.put([Entry(b"default\0gone", Version(1 << 40, 0, NODE, 1), None)])
        store.put([Entry(b"default\0old", Version(1 << 40, 1, NODE, 1), None)])
        assert memory.standing(store.unit) is Standing.WHOLE
        assert node.read("frys_cache_tombstones") == 2
        assert node.read("frys_cache_tombstone_bytes") == node.read("frys_cache_memory_bytes") > 800
        nursery.cancel_scope.cancel()


async def test_a_setting_that_needs_a_restart_is_refused() -> None:
    """The running settings stand."""
    async with trio.open_nursery() as nursery:
        plugin = await Node(nursery).load(CacheConfig())
        with pytest.raises(ReloadRefused, match="sweep_interval_s"):
            await plugin.on_config_change(CacheConfig(), CacheConfig(sweep_interval_s=9))
        nursery.cancel_scope.cancel()


async def test_expired_values_give_their_memory_back_unread(autojump_clock: trio.testing.MockClock) -> None:
    """The sweep turns them into tombstones, without anybody asking for them."""
    del autojump_clock
    async with trio.open_nursery() as nursery:
        node = Node(nursery)
        await node.load(CacheConfig(sweep_interval_s=1))
        await node.http.request("PUT", "/v1/cache/default/k?ttl=5s", b"v" * 10_000)
        await trio.sleep(4)
        assert node.read("frys_cache_memory_bytes") > 10_000
        await trio.sleep(3)
        assert node.read("frys_cache_memory_bytes") < 1_000
        assert node.read("frys_cache_expired_entries_total") == 1
        nursery.cancel_scope.cancel()
