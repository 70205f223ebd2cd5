"""Durable workflows as a plugin: an engine on this node's SQLite journal, reachable through every node."""

from __future__ import annotations

from typing import Any

import trio

from frys_node.base.errors import PluginError, ReloadRefused
from frys_node.kernel.context import PluginContext
from frys_node.kernel.plugin import PluginManifest
from frys_node.kernel.services.http import HTTP
from frys_node.kernel.services.members import MEMBERS
from frys_node.kernel.services.node import NODE
from frys_node.kernel.services.rpc import RPC
from frys_node.kernel.services.snapshots import SNAPSHOTS
from frys_node.kernel.services.topology import TOPOLOGY
from frys_node.plugins.workflow.config import WorkflowConfig

JOURNAL = "workflow.sqlite"
"""Name of the journal in the data directory."""


class WorkflowPlugin:
    """Runs `@workflow` code, and moves its partitions with the topology record."""

    def __init__(self) -> None:
        self._context: PluginContext | None = None
        self._engine: Any = None
        self._store: Any = None
        self._service: Any = None
        self._http: Any = None

    def metadata(self) -> PluginManifest:
        """Describe the plugin."""
        return PluginManifest(
            name="workflow",
            version="1.0.0",
            requires=(HTTP.name, RPC.name, MEMBERS.name, TOPOLOGY.name),
            config=WorkflowConfig,
        )

    async def init(self, context: PluginContext) -> None:
        """Load users' workflows, check the replay host, open the journal."""
        from frys_node.plugins.workflow.bodies import Bodies
        from frys_node.plugins.workflow.driver import Engine, catalogue
        from frys_node.plugins.workflow.loading import load_workflows
        from frys_node.plugins.workflow.selfcheck import check_replay
        from frys_node.storage.sqlite import SqliteStore

        self._context = context
        config: WorkflowConfig = context.config
        problem = check_replay()
        if problem:
            raise PluginError(
                f"workflows cannot run on trio {trio.__version__}: {problem}", hint="install the pinned version of trio"
            )
        workflows = load_workflows(config.modules, config.files)
        clock = context.clock
        self._store = await SqliteStore.open(context.data_dir / JOURNAL, clock)

        def make_bodies(nursery: trio.Nursery) -> Bodies:
            return Bodies(
                nursery,
                steps_max=config.steps_max,
                threads_max=config.threads_max,
                rng=context.entropy.rng("workflow.backoff"),
                unix_s=lambda: clock.unix_ns() / 1e9,
                http_address=self._http_address,
            )

        self._engine = Engine(
            store=self._store,
            clock=clock,
            workflows=catalogue(workflows),
            config=config,
            owner=f"{context.node}/{context.boot}",
            make_bodies=make_bodies,
        )
        self._declare_metrics(context)

    def _http_address(self) -> str:
        assert self._context is not None
        members = self._context.service(MEMBERS)
        own = members.get(members.self_id)
        return own.http if own is not None else ""

    def _declare_metrics(self, context: PluginContext) -> None:
        engine, store, metrics = self._engine, self._store, context.metrics
        gauge = metrics.gauge
        gauge("frys_workflow_runs_live", "Runs that have not ended, on this node.", source=lambda: engine.runs_live)
        gauge("frys_workflow_runs_awake", "Runs held in memory.", source=lambda: engine.runs_awake)
        gauge("frys_workflow_commits_queued", "Appends that wait for the disk.", source=lambda: len(engine.commits))
        counter = metrics.counter
        counter("frys_workflow_store_commits_total", "Journal transactions.", source=lambda: store.commits_total)
        counter("frys_workflow_fenced_total", "Appends refused for a newer owner.", source=lambda: engine.fenced_total)

    async def on_load(self) -> None:
        """Resume runs, then serve."""
        from frys_node.plugins.workflow.http import WorkflowHttp
        from frys_node.plugins.workflow.mover import PartitionMover
        from frys_node.plugins.workflow.partition import RunService

        context = self._context
        assert context is not None
        engine, config = self._engine, context.config
        topology = context.service(TOPOLOGY)
        await engine.prepare(range(topology.partitions))
        await context.nursery.start(engine.run)
        rpc, members, snapshots = context.service(RPC), context.service(MEMBERS), context.services.find(SNAPSHOTS)
        self._service = RunService(
            engine=engine, topology=topology, rpc=rpc, members=members, wait_max_s=config.wait_max_s
        )
        mover = PartitionMover(engine=engine, topology=topology, rpc=rpc, snapshots=snapshots)
        if snapshots is not None:
            snapshots.register("workflow", mover, replaces=True)
        topology.register_mover("workflow", mover)
        entropy = context.entropy
        self._http = context.service(HTTP)
        workflows = list(engine.workflows.values())
        WorkflowHttp(self._service, workflows, lambda: entropy.token_bytes(12).hex()).register(self._http)
        node = context.services.find(NODE)
        if node is not None:
            node.add_check("workflow-journal", lambda: engine.commits.error and engine.commits.error.message)
            node.add_status("workflow", self._status)
            node.add_door("workflow", self._service.end_waits)

    def _status(self) -> dict[str, Any]:
        engine = self._engine
        return {
            "workflows": len(engine.workflows),
            "partitions": len(engine.partitions),
            "sealed": len(engine.sealed),
            "runs_live": engine.runs_live,
            "runs_awake": engine.runs_awake,
            "runs_ended": dict(engine.runs_ended_total),
            "forwarded": self._service.forwarded_total if self._service is not None else 0,
        }

    def handle_message(self, message: Any) -> None:
        """Nothing is subscribed to: the topology calls the mover."""

    async def on_config_change(self, old: WorkflowConfig, new: WorkflowConfig) -> None:
        """Only the longest wait can change while runs are open."""
        if self._service is not None:
            for name in WorkflowConfig.__struct_fields__:
                if name != "wait_max_s" and getattr(old, name) != getattr(new, name):
                    raise ReloadRefused(f"[plugins.workflow] {name} needs a restart")
            self._service.wait_max_s = new.wait_max_s

    async def on_unload(self) -> None:
        """Stop taking requests and make everything durable that was accepted; open steps run again later."""
        from frys_node.plugins.workflow.http import PREFIXES
        from frys_node.plugins.workflow.messages import REQUEST

        if self._context is not None:
            self._context.service(RPC).unserve(REQUEST)
        if self._http is not None:
            for prefix in PREFIXES:
                self._http.unroute(prefix)
        if self._context is not None and (node := self._context.services.find(NODE)) is not None:
            node.remove_status("workflow")
            node.remove_door("workflow")
        if self._service is not None:
            await self._service.end_waits()
        if self._engine is not None:
            await self._engine.commits.flush()

    async def cleanup(self) -> None:
        """Close the journal and stop answering other nodes."""
        if self._service is not None:
            self._service.close()
        store, self._store = self._store, None
        if store is not None:
            await store.aclose()
        self._context = self._engine = self._service = self._http = None
