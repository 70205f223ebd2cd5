"""Does this trio still behave as the replay host needs? One small history, run live and replayed, before any user's.

It touches every internal that the host relies on: spawning, nurseries, events with many waiters, cancel scopes,
deadlines, abort functions, shields and eviction. It takes a few milliseconds and opens nothing.
"""

from __future__ import annotations

from typing import Any

import trio

from frys_node.plugins.workflow.errors import Stalled
from frys_node.plugins.workflow.journal import DeadlineFired, Ended, Entry, Started, StepDone, StepStopped
from frys_node.plugins.workflow.machine import HERE, RunStep
from frys_node.plugins.workflow.replay import Host
from frys_node.plugins.workflow.values import decode_value, encode_value

WAITERS = 20


class _Probe:
    """A step without a body."""

    name = "probe"
    waits_when_cancelled = True

    def decode(self, value: bytes) -> Any:
        """Decode as plain data."""
        return decode_value(value)


_PROBE = _Probe()


async def _call(value: int) -> int:
    branch = HERE.get()
    assert branch is not None
    result: int = await branch.host.call(_PROBE, (value,), {})
    return result


async def _history() -> list[object]:
    trace: list[object] = []
    gate = trio.Event()
    send, receive = trio.open_memory_channel[int](0)

    async def waiter(index: int) -> None:
        await gate.wait()
        trace.append(index)

    async def producer() -> None:
        async with send:
            await send.send(await _call(1))

    async with trio.open_nursery() as nursery:
        for index in range(WAITERS):
            nursery.start_soon(waiter, index)
        nursery.start_soon(producer)
        async for value in receive:
            trace += [f"received {value}"]
        gate.set()
    with trio.move_on_after(10) as scope:
        await _call(2)
    trace.append(f"timed out {scope.cancelled_caught} at {trio.current_time():g}")
    with trio.CancelScope() as outer:
        outer.cancel()
        with trio.CancelScope(shield=True):
            trace.append(await _call(3))
        await trio.lowlevel.checkpoint()
    await trio.sleep(5)
    return trace


_EXPECTED = ["received 1", *range(WAITERS), "timed out True at 110", 3]


def check_replay() -> str:
    """Return what is wrong with this version of trio, "" if nothing is."""
    try:
        return _check()
    except (AttributeError, TypeError, KeyError, AssertionError, RuntimeError, Stalled) as error:
        return f"{type(error).__name__}: {error}"


def _check() -> str:
    live = Host("self-check", _history)
    journal: list[Entry] = []
    pending: list[Entry] = [Started(100.0, "self-check", "", "", "", b"")]
    while pending:
        entry = pending.pop(0)
        live.apply(entry)
        if live.failure is not None:
            return live.failure.message
        journal += [entry, *live.notes]
        for effect in live.take_effects():
            if not isinstance(effect, RunStep):
                pending.append(StepStopped(live.now, effect.id, "probe"))
            elif effect.args[0] != 2:  # the second call never ends by itself
                value = encode_value(effect.args[0], "value")
                pending.append(StepDone(live.now, effect.id, "probe", effect.crc, value, 1, live.now))
        if not pending and live.ended is None:
            wake_at_s = live.wake_at_s
            if wake_at_s is None:
                return "the history stopped before its end"
            pending.append(DeadlineFired(wake_at_s, live.due(wake_at_s)[0]))
    assert live.ended is not None
    trace = decode_value(live.ended.value)
    if trace != _EXPECTED:
        return f"the order of events is {trace}"
    return _check_replays(journal, live.ended)


def _check_replays(journal: list[Entry], ended: Ended) -> str:
    for length in range(1, len(journal) + 1):
        again = Host("self-check", _history)
        again.replay(journal[:length])
        if again.failure is not None:
            return again.failure.message
        if length == len(journal) and again.ended != ended:
            return "a replay ended differently"
        if not again.evict():
            return "a run could not be evicted"
    return ""
