"""What workflow tests share: a clock tied to trio's, and an engine on a store."""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import trio

from frys_node.plugins.workflow.api import Workflow
from frys_node.plugins.workflow.bodies import Bodies
from frys_node.plugins.workflow.config import WorkflowConfig
from frys_node.plugins.workflow.driver import Engine, catalogue
from frys_node.plugins.workflow.replay import STUCK, Host
from frys_node.plugins.workflow.runs import STATE, RunState, as_plain
from frys_node.plugins.workflow.values import encode_value
from frys_node.storage.memory import MemoryStore
from frys_node.storage.ports import JournalStore, RunQuery, RunRow

EPOCH_S = 1_700_000_000


class TrioClock:
    """Both clocks follow trio's, so that a test clock moves everything."""

    def now_s(self) -> float:
        """Trio's time."""
        return trio.current_time()

    def unix_ns(self) -> int:
        """A fixed day plus trio's time."""
        return int((EPOCH_S + trio.current_time()) * 1e9)


@contextlib.asynccontextmanager
async def engine_on(
    store: JournalStore | None,
    workflows: Sequence[Workflow],
    *,
    partitions: Sequence[int] = (0,),
    clock: Any = None,
    **config: Any,
) -> AsyncIterator[Engine]:
    """Run an engine that owns the partitions; leaving stops it as a crash would (nothing is flushed)."""
    clock = clock or TrioClock()

    def make_bodies(nursery: trio.Nursery) -> Bodies:
        return Bodies(
            nursery,
            steps_max=100,
            threads_max=4,
            rng=random.Random(1),
            unix_s=lambda: clock.unix_ns() / 1e9,
            http_address=lambda: "127.0.0.1:1",
        )

    engine = Engine(
        store=store if store is not None else MemoryStore(clock),
        clock=clock,
        workflows=catalogue(workflows),
        config=WorkflowConfig(**config),
        owner="test",
        make_bodies=make_bodies,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        await engine.own(partitions)
        yield engine
        nursery.cancel_scope.cancel()
    left = [host for host in gc.get_objects() if type(host) is Host and host.tasks and host not in STUCK]
    assert not left, "a host with open branches was left to the garbage collector"


async def row_of(engine: Engine, run: str) -> RunRow:
    """The committed row of a run."""
    return (await engine.store.query(RunQuery(run=run)))[0]


def state_of(row: RunRow) -> RunState:
    """Output or error of a row."""
    return STATE.decode(row.state)


async def finish(engine: Engine, workflow: Workflow, value: Any, run: str = "r1", within_s: float = 1e9) -> RunRow:
    """Start a run, wait for its end and return its row."""
    await engine.start(0, run, workflow, encode_value(value, "input"))
    with trio.fail_after(within_s):
        await engine.wait(0, run)
    return await row_of(engine, run)


def output_of(row: RunRow) -> Any:
    """The output of a completed run; fails with the error of any other."""
    state = state_of(row)
    assert row.status == "completed", (row.status, state.error)
    return as_plain(state.output)
