"""In-process costs: publishing an event to one handler, and starting a task until it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import trio

from frys_node.bench.figure import Figure
from frys_node.bench.runner import median
from frys_node.kernel.bus import Bus

LOOPS = 200_000
TASKS = 2_000


class Event:
    """An event of the benchmark."""


def run(rounds: int) -> list[Figure]:
    """Measure both."""
    bus = Bus()
    counted = [0]

    def handler(_: object) -> None:
        counted[0] += 1

    bus.on(Event, handler)
    event = Event()
    publish, call, tasks = [], [], []
    for _ in range(rounds):
        publish.append(_ns_each(lambda: bus.publish(event)))
        call.append(_ns_each(lambda: handler(event)))
        tasks.append(trio.run(_task_us))
    return figures_of(publish, call, tasks)


def figures_of(publish: Sequence[float], call: Sequence[float], tasks: Sequence[float]) -> list[Figure]:
    """Return the figures of nanoseconds a publish and a call, and of microseconds a task."""
    return [
        Figure(
            "publish to one handler",
            "us",
            median(publish) / 1e3,
            "plain call",
            median(call) / 1e3,
            "<= 0.5 us",
            publish,
        ),
        Figure("schedule a task to running", "us", median(tasks), "plain call", median(call) / 1e3, "<= 10 us", tasks),
    ]


def _ns_each(function: Callable[[], None]) -> float:
    begun = time.perf_counter_ns()
    for _ in range(LOOPS):
        function()
    return (time.perf_counter_ns() - begun) / LOOPS


async def _task_us() -> float:
    """Return the mean time from `start_soon` until the task runs and ends, for tasks started in a batch."""

    async def nothing() -> None:
        return

    begun = time.perf_counter_ns()
    async with trio.open_nursery() as nursery:
        for _ in range(TASKS):
            nursery.start_soon(nothing)
    return (time.perf_counter_ns() - begun) / TASKS / 1e3
