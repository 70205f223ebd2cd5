"""Vector search as a plugin: shards on the ring, Qdrant's REST dialect on every node.

Importing this module imports neither numpy nor usearch: they come with the first shard that is placed here, or the
first vector that is sent here (D12).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from frys_node.base.errors import ReloadRefused
from frys_node.kernel.context import PluginContext
from frys_node.kernel.plugin import PluginManifest
from frys_node.kernel.rhythm import next_beat
from frys_node.kernel.services.http import HTTP
from frys_node.kernel.services.replication import REPLICATION
from frys_node.kernel.services.rpc import RPC
from frys_node.kernel.services.topology import TOPOLOGY
from frys_node.plugins.vector.config import VectorConfig

if TYPE_CHECKING:
    from frys_node.plugins.vector.driver import VectorService
    from frys_node.plugins.vector.local import LocalShards
    from frys_node.plugins.vector.scatter import Scatter

MAINTENANCE_PAUSE_S = 1.0
"""Pause between looks for index work; while there is work it goes on at once."""

RESTART_ONLY = ("index_rows_min", "dead_ratio_max")


class VectorPlugin:
    """Registers the kind ``vector`` with replication, the search calls and the routes."""

    def __init__(self) -> None:
        self._context: PluginContext | None = None
        self._local: LocalShards | None = None
        self._scatter: Scatter | None = None
        self._service: VectorService | None = None

    def metadata(self) -> PluginManifest:
        """Describe the plugin."""
        return PluginManifest(
            name="vector",
            version="1.0.0",
            requires=(HTTP.name, REPLICATION.name, TOPOLOGY.name, RPC.name),
            config=VectorConfig,
        )

    async def init(self, context: PluginContext) -> None:
        """Register the kind, so that replication can open the shards that it places here."""
        from frys_node.plugins.vector.driver import VectorService
        from frys_node.plugins.vector.local import LocalShards
        from frys_node.plugins.vector.scatter import Scatter

        replication, topology = context.service(REPLICATION), context.service(TOPOLOGY)
        config: VectorConfig = context.config
        local = LocalShards(replication=replication, topology=topology, executor=context.executor, config=config)
        replication.register("vector", local.open, durable=True)
        self._scatter = Scatter(
            local=local,
            replication=replication,
            topology=topology,
            rpc=context.service(RPC),
            config=config,
            metrics=context.metrics,
        )
        self._service = VectorService(
            replication=replication, topology=topology, scatter=self._scatter, config=config, metrics=context.metrics
        )
        context.metrics.gauge(
            "frys_vector_points", "Points held here.", source=lambda: sum(len(store) for store in local.stores())
        )
        context.metrics.gauge("frys_vector_shards", "Shards held here.", source=lambda: len(local.stores()))
        self._context, self._local = context, local

    async def on_load(self) -> None:
        """Serve."""
        from frys_node.plugins.vector.messages import SEARCH, STATS
        from frys_node.plugins.vector.qdrant import Dialect, PointRoutes
        from frys_node.plugins.vector.qdrant_collections import CollectionRoutes

        assert self._context is not None
        assert self._local is not None
        assert self._service is not None
        rpc, http = self._context.service(RPC), self._context.service(HTTP)
        rpc.serve(SEARCH, self._local.search)
        rpc.serve(STATS, self._local.stats)
        dialect = Dialect(self._service, self._context.clock)
        CollectionRoutes(dialect, self._context.entropy).register(http)
        PointRoutes(dialect).register(http)
        self._context.nursery.start_soon(self._maintain, self._local)

    def handle_message(self, message: Any) -> None:
        """Nothing is subscribed to."""

    async def on_config_change(self, old: VectorConfig, new: VectorConfig) -> None:
        """Apply new limits at once; the shape of the index needs a restart."""
        changed = [name for name in RESTART_ONLY if getattr(old, name) != getattr(new, name)]
        if changed:
            raise ReloadRefused(f"[plugins.vector] {', '.join(changed)} needs a restart")
        for part in (self._local, self._scatter, self._service):
            if part is not None:
                part.config = new

    async def on_unload(self) -> None:
        """Stop serving; requests in flight finish on their own."""
        if self._context is not None:
            self._context.service(HTTP).unroute("/collections")

    async def cleanup(self) -> None:
        """Let go of everything; a restart after a crash serves the calls anew."""
        if self._context is not None:
            from frys_node.plugins.vector.messages import SEARCH, STATS

            rpc = self._context.service(RPC)
            rpc.unserve(SEARCH)
            rpc.unserve(STATS)
        self._context = self._local = self._scatter = self._service = None

    async def _maintain(self, local: LocalShards) -> None:
        # Before the first vector comes from another node: nothing could wait for the import then.
        await local.opened.wait()
        await local.load()
        while True:
            if not await local.maintain():
                await next_beat(MAINTENANCE_PAUSE_S)
