"""States of a component, the only ways between them, and how often a crashed one is tried again.

Sans-I/O. The table below is the whole truth: the supervisor asks `advance` before it does anything, so an
impossible order (draining what never started) is an error here and not a surprise there.

    resolved -> starting -> ready -> draining -> stopped
        ^          |          |
        +--crash / recycle----+--budget spent--> failed
"""

from __future__ import annotations

import random
from collections import deque
from enum import StrEnum

import msgspec

from frys_node.base.errors import FrysError


class State(StrEnum):
    """Where a component is in its life."""

    RESOLVED = "resolved"
    """Known and in order; waits for its start or for its next try."""
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"
    """Its restart budget is spent; only an operator's load or reload starts it again."""


class Signal(StrEnum):
    """What happened to a component."""

    START = "start"
    STARTED = "started"
    CRASHED = "crashed"
    RECYCLED = "recycled"
    """Taken down on purpose to come back: something it builds on restarted."""
    GAVE_UP = "gave_up"
    DRAIN = "drain"
    STOPPED = "stopped"


TRANSITIONS: dict[tuple[State, Signal], State] = {
    (State.RESOLVED, Signal.START): State.STARTING,
    (State.RESOLVED, Signal.STOPPED): State.STOPPED,
    (State.RESOLVED, Signal.GAVE_UP): State.FAILED,
    (State.STARTING, Signal.STARTED): State.READY,
    (State.STARTING, Signal.CRASHED): State.RESOLVED,
    (State.STARTING, Signal.RECYCLED): State.RESOLVED,
    (State.STARTING, Signal.DRAIN): State.DRAINING,
    (State.STARTING, Signal.STOPPED): State.STOPPED,
    (State.READY, Signal.CRASHED): State.RESOLVED,
    (State.READY, Signal.RECYCLED): State.RESOLVED,
    (State.READY, Signal.DRAIN): State.DRAINING,
    (State.READY, Signal.STOPPED): State.STOPPED,
    (State.DRAINING, Signal.STOPPED): State.STOPPED,
    (State.FAILED, Signal.STOPPED): State.STOPPED,
}


class InvalidTransition(FrysError):
    """The signal makes no sense in this state. The state is unchanged."""

    code = "kernel.invalid_transition"


class ComponentChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Published on the bus at every change of a component's state."""

    name: str
    old: State
    new: State
    error: str = ""
    """Why, when it crashed or failed."""


def advance(state: State, signal: Signal) -> State:
    """Return the state after the signal.

    Raises:
        InvalidTransition: The table has no such edge. State is unchanged.
    """
    new = TRANSITIONS.get((state, signal))
    if new is None:
        raise InvalidTransition(f"'{signal}' is not possible while {state}")
    return new


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a crashed component comes back. The pause doubles up to a ceiling; jitter keeps nodes apart."""

    restarts_max: int = 5
    """Restarts allowed within `window_s`; one more crash and the component is failed."""
    window_s: float = 60.0
    pause_first_s: float = 0.2
    pause_max_s: float = 10.0
    jitter: float = 0.5
    """Share of a pause that is random, 0 to 1."""


class RestartBudget:
    """Counts the crashes of one component against its policy."""

    __slots__ = ("_crashes_s", "_policy", "_rng")

    def __init__(self, policy: RestartPolicy, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._crashes_s: deque[float] = deque()

    def crashed(self, now_s: float) -> float | None:
        """Record a crash; return the pause before the next try in seconds, or None when the budget is spent."""
        policy = self._policy
        while self._crashes_s and self._crashes_s[0] <= now_s - policy.window_s:
            self._crashes_s.popleft()
        if len(self._crashes_s) >= policy.restarts_max:
            return None
        pause_s = min(policy.pause_first_s * 2.0 ** len(self._crashes_s), policy.pause_max_s)
        self._crashes_s.append(now_s)
        return pause_s * (1.0 - policy.jitter * self._rng.random())

    def reset(self) -> None:
        """Forget the crashes: an operator asked for a fresh start."""
        self._crashes_s.clear()
