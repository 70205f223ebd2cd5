"""The process that the crash test kills: an engine on SQLite, runs with steps that leave a line each time they run."""

# Workflows and steps of tests speak for themselves.
# ruff: noqa: D103

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[3]))
from frys_node import Retry, current_step, step, workflow
from frys_node.plugins.workflow.values import encode_value
from frys_node.storage.ports import RunExists
from frys_node.storage.sqlite import SqliteStore
from tests.unit.workflow.workflow_kit import engine_on

LOG = -1


class WallClock:
    """Real time: it goes on from one session to the next."""

    def now_s(self) -> float:
        """Trio's time."""
        return trio.current_time()

    def unix_ns(self) -> int:
        """Wall time."""
        return time.time_ns()


def note(text: str) -> None:
    """Leave a line that survives SIGKILL."""
    os.write(LOG, (text + "\n").encode())


@step
async def square(n: int) -> int:
    note(f"body {current_step().run} {current_step().reference}")
    await trio.sleep(0.002)
    return n * n


@step
def cube(n: int) -> int:
    note(f"body {current_step().run} {current_step().reference}")
    return n * n * n


@step(retry=Retry(max=4, base=0.001, cap=0.002))
async def shaky(n: int) -> int:
    info = current_step()
    if info.attempt < 3:
        raise RuntimeError("again")
    note(f"body {info.run} {info.reference}")
    return n + 1


@workflow(name="mixed")
async def mixed(ctx, n):
    out = [await square(n)]
    async with trio.open_nursery() as nursery:

        async def branch(index: int) -> None:
            out.append(await cube(n + index) + await shaky(index))

        for index in range(3):
            nursery.start_soon(branch, index)
    await trio.sleep(0.01)
    with trio.move_on_after(30):
        out.append(await shaky(n))
    out += await ctx.map(square, range(n, n + 4), limit=2)
    return sum(out) + ctx.random.randrange(1000)


async def main(directory: Path, runs: int) -> None:
    """Start (or resume) the runs and wait for all."""
    clock = WallClock()
    store = await SqliteStore.open(directory / "workflow.db", clock)
    async with engine_on(store, [mixed], clock=clock) as engine:
        for index in range(runs):
            try:
                await engine.start(0, f"run-{index}", mixed, encode_value(index, "input"))
            except RunExists:
                continue
        for index in range(runs):
            await engine.wait(0, f"run-{index}")
    await store.aclose()
    note("finished")


if __name__ == "__main__":
    LOG = os.open(sys.argv[1] + "/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    note("session")
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
