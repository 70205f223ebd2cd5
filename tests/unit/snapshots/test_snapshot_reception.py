"""The desk of saved snapshots is made when somebody asks, once."""

from __future__ import annotations

import pytest
import trio

from frys_node.base.types import UnitId
from frys_node.observe.metrics import Metrics
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.rpc import RpcNetwork
from frys_node.testing.saved import open_saved_cluster
from snapshots.desk import Desk
from snapshots.messages import SURVEY, SurveyRequest
from snapshots.reception import Reception


async def test_who_asks_at_the_same_time_gets_one_desk_and_nobody_asking_makes_none() -> None:
    """Two desks would hand out the same numbers for transfers and run twice as many jobs as allowed."""
    async with open_saved_cluster({"a": {UnitId("t/1"): b"x"}}) as cluster:
        made: list[Desk] = []

        def make() -> Desk:
            made.append(cluster["a"].desk)
            return cluster["a"].desk

        metrics, rpc = Metrics(), RpcNetwork().node("b")
        reception = Reception(rpc=rpc, executor=InlineExecutor(), metrics=metrics, load=lambda: make)
        assert {"frys_snapshots_saves_total", "frys_snapshots_exports_total"} <= {metric.name for metric in metrics}
        assert made == []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(reception.desk)
            nursery.start_soon(rpc.call, rpc.self_id, SURVEY, SurveyRequest(()))
        assert len(made) == 1


async def test_an_import_that_fails_is_tried_again_by_the_next_who_asks() -> None:
    """A disk that could not be read for a moment takes no node out of its cluster's saves."""
    async with open_saved_cluster({"a": {UnitId("t/1"): b"x"}}) as cluster:
        tries = iter((False, True))

        def load() -> object:
            if not next(tries):
                raise ImportError("the file was being replaced")
            return lambda: cluster["a"].desk

        rpc = RpcNetwork().node("b")
        reception = Reception(rpc=rpc, executor=InlineExecutor(), metrics=Metrics(), load=load)  # type: ignore[arg-type]
        with pytest.raises(ImportError):
            await reception.desk()
        assert await reception.desk() is cluster["a"].desk
