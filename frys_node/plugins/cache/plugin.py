"""The cache as a plugin: units in memory under one bound of bytes, served over HTTP and to Redis clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from frys_node.base.errors import ReloadRefused
from frys_node.base.types import UnitId
from frys_node.kernel.context import PluginContext
from frys_node.kernel.plugin import PluginManifest
from frys_node.kernel.rhythm import next_beat
from frys_node.kernel.services.http import HTTP
from frys_node.kernel.services.members import MEMBERS
from frys_node.kernel.services.replication import REPLICATION, Replication
from frys_node.kernel.services.rpc import RPC
from frys_node.kernel.services.topology import TOPOLOGY, Topology
from frys_node.observe.metrics import Metrics
from frys_node.plugins.cache.config import CacheConfig

if TYPE_CHECKING:
    from frys_node.plugins.cache.changer import Changer
    from frys_node.plugins.cache.driver import CacheService
    from frys_node.plugins.cache.keyspace import Keyspace
    from frys_node.plugins.cache.memory import CacheMemory
    from frys_node.plugins.cache.resp.front import RespFront

RESTART_ONLY = (
    "sweep_interval_s",
    "resp",
    "resp_insecure",
    "resp_tls",
    "resp_tls_certificate",
    "resp_tls_key",
    "resp_tls_classical",
)


class CachePlugin:
    """Registers the kind ``cache`` with replication and the routes under ``/v1/cache``."""

    def __init__(self) -> None:
        self._context: PluginContext | None = None
        self._memory: CacheMemory | None = None
        self._service: CacheService | None = None
        self._changer: Changer | None = None
        self._keyspace: Keyspace | None = None
        self._resp: RespFront | None = None

    def metadata(self) -> PluginManifest:
        """Describe the plugin."""
        return PluginManifest(
            name="cache",
            version="1.0.0",
            requires=(HTTP.name, REPLICATION.name, TOPOLOGY.name, RPC.name, MEMBERS.name),
            config=CacheConfig,
        )

    async def init(self, context: PluginContext) -> None:
        """Register the kind, so that replication can open the units that it places here."""
        from frys_node.plugins.cache.changer import CHANGE, Changer
        from frys_node.plugins.cache.driver import CacheService
        from frys_node.plugins.cache.keyspace import Keyspace
        from frys_node.plugins.cache.memory import CacheMemory
        from frys_node.plugins.cache.standing import Standings

        config: CacheConfig = context.config
        clock = context.clock

        def now_unix_ms() -> int:
            return clock.unix_ns() // 1_000_000

        replication, topology = context.service(REPLICATION), context.service(TOPOLOGY)
        memory = _held(replication, topology) or CacheMemory(config.memory_bytes_max, now_unix_ms)
        memory.standing = Standings(replication=replication, topology=topology, node=context.node)
        self._context, self._memory = context, memory
        self._configure(config)
        replication.register("cache", memory.open, durable=False)
        metrics = context.metrics
        _measure(metrics, memory)
        self._service = CacheService(
            replication=replication,
            topology=topology,
            memory=memory,
            config=config,
            metrics=metrics,
            now_unix_ms=now_unix_ms,
            node=context.node,
        )
        rpc = context.service(RPC)
        self._changer = Changer(
            service=self._service, topology=topology, rpc=rpc, is_usable=context.service(MEMBERS).is_usable
        )
        rpc.serve(CHANGE, self._changer.answer)
        # Other nodes may have Redis clients that ask for lists, whether or not this one has.
        self._keyspace = Keyspace(service=self._service, replication=replication, rpc=rpc)

    def _configure(self, config: CacheConfig) -> None:
        """Bound the memory as the settings say; short answers are kept ready for Redis clients only."""
        assert self._memory is not None
        self._memory.configure(config.memory_bytes_max, config.policy, config.quotas, keeps_replies=bool(config.resp))

    async def on_load(self) -> None:
        """Serve."""
        from frys_node.plugins.cache.http import CacheHttp

        assert self._context is not None
        assert self._memory is not None
        assert self._service is not None
        assert self._changer is not None
        CacheHttp(self._service, self._changer).register(self._context.service(HTTP))
        self._context.nursery.start_soon(self._sweep, self._memory, self._context.config.sweep_interval_s)
        if self._service.config.resp:
            from frys_node.plugins.cache.resp.front import RespFront

            assert self._keyspace is not None
            self._resp = RespFront(self._context, self._service, self._changer, self._keyspace)
            await self._resp.open()

    def handle_message(self, message: Any) -> None:
        """Nothing is subscribed to."""

    async def on_config_change(self, old: CacheConfig, new: CacheConfig) -> None:
        """Apply new limits at once; a smaller memory evicts."""
        fixed = [name for name in RESTART_ONLY if getattr(old, name) != getattr(new, name)]
        if fixed:
            raise ReloadRefused(f"[plugins.cache] {', '.join(fixed)} need a restart")
        if self._service is not None and self._memory is not None:
            self._service.config = new
            self._configure(new)
        if self._resp is not None:
            self._resp.take(new)

    async def on_unload(self) -> None:
        """Stop serving; requests in flight finish on their own."""
        from frys_node.plugins.cache.http import PREFIX

        if self._resp is not None:
            await self._resp.close()
        if self._context is not None:
            self._context.service(HTTP).unroute(PREFIX)

    async def cleanup(self) -> None:
        """Let go. The units stay with replication, which counts on what they acknowledged; a reload finds them."""
        from frys_node.plugins.cache.changer import CHANGE

        if self._context is not None:
            self._context.service(RPC).unserve(CHANGE)
        if self._keyspace is not None:
            self._keyspace.close()
        self._context = self._memory = self._service = self._changer = self._keyspace = self._resp = None

    @staticmethod
    async def _sweep(memory: CacheMemory, interval_s: float) -> None:
        while True:
            await next_beat(interval_s)
            memory.sweep()


def _measure(metrics: Metrics, memory: CacheMemory) -> None:
    """Show what is held."""
    metrics.gauge("frys_cache_memory_bytes", "Bytes of entries held here.", source=lambda: memory.total_bytes)
    metrics.gauge("frys_cache_entries", "Entries held here, tombstones included.", source=lambda: len(memory))
    metrics.counter("frys_cache_evicted_entries_total", "Values evicted.", source=lambda: memory.evicted)
    metrics.counter("frys_cache_expired_entries_total", "Values expired.", source=lambda: memory.expired)
    tombstones = memory.tombstones
    metrics.gauge("frys_cache_tombstones", "Deleted and expired keys held here.", source=lambda: len(tombstones))
    metrics.gauge("frys_cache_tombstone_bytes", "Bytes of those.", source=lambda: tombstones.total_bytes)
    metrics.counter(
        "frys_cache_evicted_tombstones_total",
        "Tombstones that gave way to a floor.",
        source=lambda: memory.tombstones_evicted,
    )


def _held(replication: Replication, topology: Topology) -> CacheMemory | None:
    """Return the memory of units that an earlier load of this plugin left with replication."""
    from frys_node.plugins.cache.unit import CacheUnit

    for number in range(topology.partitions):
        store = replication.local(UnitId(f"cache/{number}"))
        if isinstance(store, CacheUnit):
            return store.memory
    return None
