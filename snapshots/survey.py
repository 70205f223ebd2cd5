"""What every node holds and what moves where: asked of all at the same time, answered by each for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import trio

from frys_node.base.errors import FrysError
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.kernel.services.snapshots import MoveProgress, Snapshottable
from snapshots.messages import HOLDING, MOVING, Ask, Holding, Moving

SURVEY_TIMEOUT_S = 2.0
"""A node that does not answer within this is left out and named."""

MOVES_MAX = 512
"""Moves that one node tells of: those under way, then the last finished ones."""

_Answer = TypeVar("_Answer", Holding, Moving)


class Silent(NamedTuple):
    """A node that did not answer, and why."""

    node: NodeId
    error: str


class Survey:
    """Asks other nodes, and answers them."""

    def __init__(
        self, rpc: Rpc, providers: Mapping[str, Snapshottable], moves: Callable[[], Sequence[MoveProgress]]
    ) -> None:
        self._rpc = rpc
        self._providers = providers
        self._moves = moves
        rpc.serve(HOLDING, self._serve_holding)
        rpc.serve(MOVING, self._serve_moving)

    async def _serve_holding(self, caller: NodeId, request: Ask) -> Holding:
        del caller, request
        sizes: dict[UnitId, int] = {}
        for provider in list(self._providers.values()):
            sizes |= await provider.sizes()
        return Holding(sizes)

    async def _serve_moving(self, caller: NodeId, request: Ask) -> Moving:
        del caller, request
        await trio.lowlevel.checkpoint()
        return Moving(list(self._moves())[:MOVES_MAX])

    async def holdings(self, nodes: Sequence[NodeId]) -> tuple[dict[NodeId, Mapping[UnitId, int]], list[Silent]]:
        """Return the units and bytes of each node that answers, and those that do not."""
        answers, silent = await self._ask(nodes, HOLDING)
        return {node: answer.sizes for node, answer in answers.items()}, silent

    async def moves(self, nodes: Sequence[NodeId]) -> tuple[dict[NodeId, Sequence[MoveProgress]], list[Silent]]:
        """Return the moves to each node that answers, and those that do not."""
        answers, silent = await self._ask(nodes, MOVING)
        return {node: answer.moves for node, answer in answers.items()}, silent

    async def _ask(
        self, nodes: Sequence[NodeId], method: Method[Ask, _Answer]
    ) -> tuple[dict[NodeId, _Answer], list[Silent]]:
        answers: dict[NodeId, _Answer] = {}
        silent: list[Silent] = []

        async def ask(node: NodeId) -> None:
            try:
                with trio.fail_after(SURVEY_TIMEOUT_S):
                    answers[node] = await self._rpc.call(node, method, Ask())
            except trio.TooSlowError:
                silent.append(Silent(node, f"no answer within {SURVEY_TIMEOUT_S:g} s"))
            except FrysError as error:
                silent.append(Silent(node, error.message))

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(ask, node)
        return answers, sorted(silent)
