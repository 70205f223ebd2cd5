"""Judges liveness and readiness from plain facts.

Sans-I/O. Liveness asks one thing: did the event loop turn lately? It must not depend on peers, disks or load, else
a partition restarts every node of a cluster at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

LOOP_STALL_S = 10.0
"""Without a turn for this long the loop counts as stuck."""


class Verdict(NamedTuple):
    """One check's result."""

    name: str
    ok: bool
    detail: str


def loop_check(last_turn_s: float, now_s: float, stall_s: float = LOOP_STALL_S) -> Verdict:
    """Judge the event loop by its last turn (monotonic seconds)."""
    behind_s = now_s - last_turn_s
    ok = behind_s < stall_s
    return Verdict("loop", ok, "" if ok else f"the event loop has not turned for {behind_s:.1f} s")


def component_checks(states: Iterable[tuple[str, str, str]]) -> list[Verdict]:
    """Judge (name, state, error) triples: ready is fine, and so is what was stopped on purpose."""
    return [
        Verdict(name, state in ("ready", "stopped"), "" if state in ("ready", "stopped") else error or state)
        for name, state, error in states
    ]


def is_ok(verdicts: Iterable[Verdict]) -> bool:
    """True if every check passed."""
    return all(verdict.ok for verdict in verdicts)
