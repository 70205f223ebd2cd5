"""Workflows as a user would give them: a file."""

# Workflows and steps of tests speak for themselves.
# ruff: noqa: D103

from __future__ import annotations

import os
from pathlib import Path

import trio

from frys_node import Retry, StepFailed, current_step, step, workflow


@step
def note(path: str, text: str) -> int:
    with Path(path).open("a") as log:
        log.write(f"{text}\n")
    return len(text)


@step
async def double(n: int) -> int:
    return 2 * n


@step(retry=Retry(max=2, base=0.001))
async def fails(n: int) -> int:
    raise ValueError(f"no {n}")


@step
def where() -> list[str]:
    info = current_step()
    return [info.http_address, info.idempotency_key, str(os.getpid() > 0)]


@workflow(name="doubling", version="1")
async def doubling(ctx, n: int):
    """Doubles a number twice."""
    return await double(await double(n))


@workflow(name="doubling", version="10")
async def doubling_again(ctx, n: int):
    return await double(n)


@workflow(name="failing")
async def failing(ctx, n):
    try:
        await fails(n)
    except StepFailed as error:
        return [error.type_name, error.attempts]


@workflow(name="faulting")
async def faulting(ctx, n):
    await fails(n)


@workflow(name="approval")
async def approval(ctx, job):
    await note(job["log"], f"{ctx.id} first")
    answer = await ctx.signal("approved")
    await note(job["log"], f"{ctx.id} second")
    return answer


@workflow(name="sleeping")
async def sleeping(ctx, seconds):
    await trio.sleep(seconds)
    return "awake"


@workflow(name="locating")
async def locating(ctx, value):
    return await where()


@workflow(name="bulky")
async def bulky(ctx, size: int):
    return "x" * size
