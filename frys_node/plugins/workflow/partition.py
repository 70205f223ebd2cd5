"""Brings each request to the node that owns the run's partition, and serves those that arrive here.

A run's partition is a pure function of its id; the topology record says which node owns the partition. SQLite waits
for its disk: while the owner is down its runs cannot be reached, and the answer names the node. A forwarded request
carries the epoch it was routed under and is redirected at most once.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import trio

from frys_node.base.errors import FrysError, NodeUnreachable, NotOwner, NotReady, StaleEpoch
from frys_node.base.types import NodeId, UnitId
from frys_node.base.units import partition_of, workflow_unit
from frys_node.kernel.services.members import Members
from frys_node.kernel.services.rpc import Rpc
from frys_node.kernel.services.topology import Forward, Local, Topology
from frys_node.plugins.workflow.api import Workflow
from frys_node.plugins.workflow.driver import Engine
from frys_node.plugins.workflow.errors import (
    PartitionUnavailable,
    RunConflict,
    RunEnded,
    UnknownRun,
    UnknownWorkflow,
)
from frys_node.plugins.workflow.journal import Entry, Signalled, Started, decode_entries
from frys_node.plugins.workflow.messages import (
    REPLY_BYTES_MAX,
    REQUEST,
    AskSealed,
    CancelRun,
    Envelope,
    ListRuns,
    Reply,
    RunRequest,
    ShowRun,
    SignalRun,
    StartRun,
)
from frys_node.plugins.workflow.runs import FINAL, META
from frys_node.plugins.workflow.views import Owner, Running, detail, listed
from frys_node.storage.ports import RunExists, RunQuery, RunRow

LIST_ANSWER_S = 5.0
"""How long a listing waits for the slowest node; whoever has not answered is named."""
REDIRECT_PAUSE_S = 0.05
"""Pause before the one redirect, so that a record on its way can arrive."""
STARTING_S = 5.0
"""How long a request waits for a partition that is being started on this node."""
IDS_MAX = 64
"""Ids looked at for a run whose partition can be reached: enough when nine of ten cannot."""
FORWARD_SLACK_S = 10.0
"""What a forwarded request may take on top of its own waiting."""


class RunService:
    """Runs of the whole cluster, from any node."""

    def __init__(self, *, engine: Engine, topology: Topology, rpc: Rpc, members: Members, wait_max_s: float) -> None:
        self._engine = engine
        self._topology = topology
        self._rpc = rpc
        self._members = members
        self.wait_max_s = wait_max_s
        self.forwarded_total = 0
        self._waits: set[trio.CancelScope] = set()
        self._is_ending = False
        rpc.serve(REQUEST, self._serve)

    async def end_waits(self) -> None:
        """Answer whoever waits for the end of a run with the run as it is; nobody waits here from now on."""
        self._is_ending = True
        for scope in self._waits:
            scope.cancel()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Stop answering other nodes: a restarted plugin serves the method anew."""
        self._rpc.unserve(REQUEST)

    # Routing.

    def open_id(self, new_id: Callable[[], str]) -> str:
        """Return a new id of a run that can begin now: of a partition whose owner looks alive, if any does."""
        run = new_id()
        for _ in range(IDS_MAX):
            if isinstance(self._topology.route(self._unit(run)), Local | Forward):
                break
            run = new_id()
        return run

    def _unit(self, run: str) -> UnitId:
        return workflow_unit(partition_of(run, self._topology.partitions))

    async def request(self, request: RunRequest) -> bytes:
        """Carry a request about one run to its owner; returns the JSON body.

        Raises:
            PartitionUnavailable: The owner does not answer; the message names it.
            FrysError: Whatever the owner answered.
        """
        unit = self._unit(request.run)
        for attempt in (1, 2):
            route = self._topology.route(unit)
            if isinstance(route, Local):
                return await self._perform(request)
            if not isinstance(route, Forward):
                if isinstance(request, StartRun):
                    raise PartitionUnavailable(
                        f"run {request.run} was not begun: its partition is on {self._names(route.wanted)},"
                        " which does not answer",
                        hint="another id, or none, begins on a node that answers; a run that began there before goes"
                        " on when that node is back",
                    )
                raise self._unavailable(request.run, route.wanted)
            try:
                with trio.fail_after(self.wait_max_s + FORWARD_SLACK_S):
                    self.forwarded_total += 1
                    return (await self._rpc.call(route.node, REQUEST, Envelope(route.epoch, request))).body
            except (NotOwner, StaleEpoch):
                if attempt == 2:
                    raise
                await trio.sleep(REDIRECT_PAUSE_S)
            except (NodeUnreachable, trio.TooSlowError) as error:
                raise self._unavailable(request.run, (route.node,)) from error
        raise AssertionError("the second attempt returned or raised")

    def _unavailable(self, run: str, wanted: Sequence[NodeId]) -> PartitionUnavailable:
        return PartitionUnavailable(
            f"run {run} lives on {self._names(wanted)}, which does not answer; its journal is on that node's disk",
            hint="runs of other nodes go on; this one continues when its node is back",
        )

    def _names(self, nodes: Sequence[NodeId]) -> str:
        return ", ".join(self._name(node) for node in nodes) or "no node"

    def _name(self, node: NodeId) -> str:
        member = self._members.get(node)
        return member.name if member is not None else node

    async def list(self, workflow: str, status: str, limit: int) -> bytes:
        """List runs of every reachable node, newest first; nodes that did not answer are named in ``missing``."""
        request = ListRuns(workflow, status, limit)
        found: list[dict[str, Any]] = []
        missing: list[str] = []

        async def ask(node: NodeId, name: str) -> None:
            try:
                reply = await self._rpc.call(node, REQUEST, Envelope(self._topology.epoch, request))
            except FrysError:
                return
            found.extend(msgspec.json.decode(reply.body))
            missing.remove(name)

        with trio.move_on_after(LIST_ANSWER_S):
            async with trio.open_nursery() as nursery:
                for member in self._members.all():
                    if member.id == self._members.self_id or member.status == "left":
                        continue
                    missing.append(member.name)
                    if self._members.is_usable(member.id):
                        nursery.start_soon(ask, member.id, member.name)
                found.extend(await self._list_here(request))
        found.sort(key=lambda view: (view["created_at"], view["id"]), reverse=True)
        return msgspec.json.encode({"runs": found[:limit], "missing": missing})

    # Serving.

    async def _serve(self, caller: NodeId, envelope: Envelope) -> Reply:
        del caller
        request = envelope.request
        if isinstance(request, ListRuns):
            return Reply(msgspec.json.encode(await self._list_here(request)))
        if isinstance(request, AskSealed):
            return Reply(msgspec.json.encode(request.partition in self._engine.sealed))
        unit = workflow_unit(partition_of(request.run, self._topology.partitions))
        if not isinstance(self._topology.route(unit), Local):
            kind = StaleEpoch if envelope.epoch < self._topology.epoch else NotOwner
            raise kind(f"unit {unit} is not this node's under epoch {self._topology.epoch}")
        return Reply(await self._perform(request))

    async def _perform(self, request: RunRequest) -> bytes:
        number = partition_of(request.run, self._topology.partitions)
        await self._started(number)
        if isinstance(request, StartRun):
            await self._start(number, request)
        elif isinstance(request, CancelRun):
            await self._cancel(number, request)
        elif isinstance(request, SignalRun):
            await self._signal(number, request)
        if isinstance(request, StartRun | ShowRun) and request.wait and not self._is_ending:
            await self._wait(number, request.run)
        return await self._show(number, request.run)

    async def _wait(self, number: int, run: str) -> None:
        """Wait for the end of a run, for the longest wait, or for this node's stop."""
        with trio.move_on_after(self.wait_max_s) as scope:
            self._waits.add(scope)
            try:
                await self._engine.wait(number, run)
            finally:
                self._waits.discard(scope)

    async def _started(self, number: int) -> None:
        """Wait for a partition that the record has just given to this node.

        Raises:
            NotReady: It has not started within `STARTING_S`. Nothing was done.
        """
        engine = self._engine
        with trio.move_on_after(STARTING_S):
            while number not in engine.partitions and number not in engine.sealed:
                await engine.opened()
            return
        raise NotReady(f"workflow partition {number} is still starting here", hint="retry in a moment")

    async def _start(self, number: int, request: StartRun) -> None:
        workflow = self.find(request.namespace, request.name, request.version)
        try:
            await self._engine.start(number, request.run, workflow, request.input)
        except RunExists:
            row, entries = await self._stored(request.run)
            meta = META.decode(row.meta)
            first = entries[0] if entries else None
            same = (meta.namespace, meta.name) == (workflow.namespace, workflow.name)
            if request.version and meta.version != request.version:
                same = False
            if not same or not isinstance(first, Started) or first.input != request.input:
                raise RunConflict(
                    f"run {request.run} exists with another workflow or input",
                    hint="choose another id, or show that run",
                ) from None

    def find(self, namespace: str, name: str, version: str) -> Workflow:
        """Return a workflow that this node serves; without a version the newest.

        Raises:
            UnknownWorkflow: It is not loaded here; the message names those that are.
        """
        known = [w for w in self._engine.workflows.values() if (w.namespace, w.name) == (namespace, name)]
        chosen = [w for w in known if not version or w.version == version]
        if chosen:
            return max(chosen, key=lambda workflow: version_order(workflow.version))
        versions = ", ".join(sorted(w.version for w in known))
        what = (
            f"version {version} of workflow {namespace}/{name} (it serves {versions})"
            if known
            else (f"workflow {namespace}/{name}")
        )
        raise UnknownWorkflow(
            f"node {self._name(self._members.self_id)} does not serve {what}",
            hint="start it with --workflows FILE.py or [plugins.workflow] modules; every node needs the same",
        )

    async def _cancel(self, number: int, request: CancelRun) -> None:
        try:
            await self._engine.cancel(number, request.run, request.reason)
        except UnknownRun:
            await self._stored(request.run)  # an ended run stays as it is; one that never was is an error

    async def _signal(self, number: int, request: SignalRun) -> None:
        try:
            await self._engine.signal(
                number, request.run, name=request.name, value=request.value, signal=request.signal
            )
        except UnknownRun:
            row, entries = await self._stored(request.run)
            if any(isinstance(entry, Signalled) and entry.signal == request.signal for entry in entries):
                return  # sent again: it had arrived before the run ended
            if row.status in FINAL:
                raise RunEnded(f"run {request.run} is {row.status}: it takes no more signals") from None
            raise

    # Reading.

    async def _stored(self, run: str) -> tuple[RunRow, builtins.list[Entry]]:
        rows = await self._engine.store.query(RunQuery(run=run))
        if not rows:
            raise UnknownRun(f"there is no run {run}", hint="see `frys-node workflow runs`")
        chunks = await self._engine.store.read(run)
        return rows[0], [entry for chunk in chunks for entry in decode_entries(chunk.data)]

    def _owner(self) -> Owner:
        return Owner(self._name(self._members.self_id), str(self._topology.epoch))

    async def _show(self, number: int, run: str) -> bytes:
        row, entries = await self._stored(run)
        partition = self._engine.partitions.get(number)
        handle = partition.runs.get(run) if partition is not None else None
        bodies = list(handle.bodies.values()) if handle is not None else []
        running = {
            body.effect.id: Running(
                name=body.effect.step.name,
                attempts=body.attempts,
                started_at=body.started_at,
                is_running=body.is_running,
            )
            for body in bodies
        }
        view = detail(row, entries, running, self._owner())
        for part in ("tasks", "input"):
            encoded = msgspec.json.encode(view)
            if len(encoded) <= REPLY_BYTES_MAX:
                return encoded
            view[part] = None
            view["truncated"] = True
        return msgspec.json.encode(view)

    async def _list_here(self, request: ListRuns) -> builtins.list[dict[str, Any]]:
        partitions = tuple(sorted({*self._engine.partitions, *self._engine.sealed}))
        if not partitions:
            return []
        query = RunQuery(partitions=partitions, label=request.workflow, status=request.status, limit=request.limit)
        owner = self._owner()
        views: builtins.list[dict[str, Any]] = []
        size_bytes = 0
        for row in await self._engine.store.query(query):
            view = listed(row, owner)
            size_bytes += len(msgspec.json.encode(view)) + 1
            if size_bytes > REPLY_BYTES_MAX:
                break
            views.append(view)
        return views


def version_order(version: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that orders versions by their numbers: "10" after "9", "1.2" after "1.1"."""
    parts = version.replace("-", ".").split(".")
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)
