"""Run several jobs at once and hand back the first failure as itself, not as an exception group."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

T = TypeVar("T")

JOBS_AT_ONCE_MAX = 64
"""Jobs in flight for one request; the rest wait their turn."""


async def run_all(jobs: Sequence[Callable[[], Awaitable[T]]], at_once_max: int = JOBS_AT_ONCE_MAX) -> list[T]:
    """Run the jobs, at most `at_once_max` together, and return their results in order.

    The first job that raises cancels the others, and its exception is raised. One job alone needs no nursery.
    """
    if len(jobs) == 1:
        return [await jobs[0]()]
    results: dict[int, T] = {}
    failures: list[Exception] = []
    waiting = iter(enumerate(jobs))

    async def work(scope: trio.CancelScope) -> None:
        for position, job in waiting:
            try:
                results[position] = await job()
            except Exception as error:  # noqa: BLE001 - raised below, as itself
                failures.append(error)
                scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(min(at_once_max, len(jobs))):
            nursery.start_soon(work, nursery.cancel_scope)
    if failures:
        raise failures[0]
    return [results[position] for position in range(len(jobs))]
