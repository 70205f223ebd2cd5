"""Stands in for the desk of saved snapshots, which is imported and made when somebody asks for something.

Most nodes are never asked, by an operator or by another node that saves or restores a cluster. Archives, sealing,
object stores and restoring are a tenth of all that a node would import, and bring libraries of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from frys_node.base.ports import Executor
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Rpc
from frys_node.observe.metrics import Metrics
from snapshots.messages import (
    HAS,
    SHARE,
    SURVEY,
    TAKE,
    Has,
    HasRequest,
    Shared,
    ShareRequest,
    Surveyed,
    SurveyRequest,
    Taken,
    TakeRequest,
)
from snapshots.metrics import SaveMetrics

if TYPE_CHECKING:
    from snapshots.desk import Desk


class Reception:
    """Answers other nodes' calls about saved snapshots by the desk."""

    def __init__(
        self, *, rpc: Rpc, executor: Executor, metrics: Metrics, load: Callable[[], Callable[[], Desk]]
    ) -> None:
        """`load` imports what is needed, in a worker; what it returns makes the desk, in the node's own thread."""
        self._executor = executor
        self._load = load
        self._desk: Desk | None = None
        # Told as zeros by a node that never saves anything.
        SaveMetrics(metrics)
        rpc.serve(SHARE, self._share)
        rpc.serve(TAKE, self._take)
        rpc.serve(SURVEY, self._survey)
        rpc.serve(HAS, self._has)

    async def desk(self) -> Desk:
        """Return the one desk of this node."""
        if self._desk is None:
            make = await self._executor.run(self._load)
            # Somebody else may have asked meanwhile.
            if self._desk is None:
                self._desk = make()
        return self._desk

    async def _share(self, caller: NodeId, request: ShareRequest) -> Shared:
        return await (await self.desk()).cluster.share(caller, request)

    async def _take(self, caller: NodeId, request: TakeRequest) -> Taken:
        return await (await self.desk()).taking.take(caller, request)

    async def _survey(self, caller: NodeId, request: SurveyRequest) -> Surveyed:
        return await (await self.desk()).taking.survey(caller, request)

    async def _has(self, caller: NodeId, request: HasRequest) -> Has:
        return await (await self.desk()).taking.has(caller, request)
