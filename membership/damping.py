"""Flap damping: a member that comes and goes is used when it is there, and not announced each time.

Sans-I/O. Each return from the dead costs a penalty of one, which halves every minute. From `DAMPED_FROM` on the member
is damped: its condition is degraded and its comings and goings are no longer published, until the penalty has fallen
under `RELEASED_UNDER` or nothing has changed for `CALM_S`; then subscribers hear of the difference, if there is one.
And nobody's death is published more often than once in `CALM_S`: a second one waits, and is dropped if the member is
back by then.

What is damped is the news and the condition, never the status: routing asks the table, so a member that is back serves
at once, however often it went. That matters most for restarts. A process that restarts (higher boot) counts as a flap
like any other, because a crash loop is the commonest flapping there is; in a rolling upgrade each node restarts once or
twice, stays under the threshold, and even beyond it loses nothing but its headlines. Nor is a leave or an attribute of
a calm member ever held back.
"""

from __future__ import annotations

import math

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import MemberView, Status

HALF_LIFE_S = 60.0
DAMPED_FROM = 2.0
"""Three returns within a minute and a half; two, however close, stay under it."""

RELEASED_UNDER = 1.0

CALM_S = 30.0
"""A damped member that has not changed for this long is released; one death is published per member in this time."""


class _Flapper:
    """One member that has died at least once lately."""

    __slots__ = ("announced_s", "at_s", "changed_s", "held", "is_damped", "is_dead", "penalty")

    def __init__(self, now_s: float) -> None:
        self.penalty = 0.0
        self.at_s = now_s
        """When the penalty was that."""
        self.changed_s = now_s
        self.announced_s = -math.inf
        """When its death was last published."""
        self.is_damped = False
        self.is_dead = True
        self.held: MemberView | None = None
        """What subscribers were last told of it, while something is held back."""

    def penalty_at(self, now_s: float) -> float:
        return self.penalty * math.exp2(-(now_s - self.at_s) / HALF_LIFE_S)

    @property
    def due_s(self) -> float:
        """When what is held back is due, or the member is released."""
        if self.is_damped:
            decayed_s = self.at_s + HALF_LIFE_S * math.log2(self.penalty / RELEASED_UNDER)
            return min(self.changed_s + CALM_S, decayed_s)
        return self.announced_s + CALM_S


class Damping:
    """What one node holds back of the news about flapping members."""

    __slots__ = ("_flappers", "_waiting")

    def __init__(self) -> None:
        self._flappers: dict[NodeId, _Flapper] = {}
        self._waiting: dict[NodeId, _Flapper] = {}
        """Those that are damped or have something held back: few, even while many are dead."""

    @property
    def next_deadline_s(self) -> float:
        """When `release` has something to do."""
        return min(flapper.due_s for flapper in self._waiting.values()) if self._waiting else math.inf

    def is_damped(self, node: NodeId) -> bool:
        """Return True while a member is taken to flap."""
        flapper = self._flappers.get(node)
        return flapper is not None and flapper.is_damped

    def observe(self, old: MemberView | None, new: MemberView, now_s: float) -> tuple[MemberView | None, bool]:
        """Take a change; returns what subscribers know of the member, and True if they are not to hear of this yet."""
        flapper = self._flappers.get(new.id)
        if flapper is None:
            if new.status is not Status.DEAD:
                return old, False
            flapper = self._flappers[new.id] = _Flapper(now_s)
        if old is not None and old.status is Status.DEAD and new.status in (Status.ALIVE, Status.SUSPECT):
            flapper.penalty, flapper.at_s = flapper.penalty_at(now_s) + 1.0, now_s
            flapper.is_damped = flapper.is_damped or flapper.penalty >= DAMPED_FROM
        if old is None or old.status is not new.status:
            flapper.changed_s = now_s
        flapper.is_dead = new.status is Status.DEAD
        if new.status is Status.LEFT:
            del self._flappers[new.id]
            self._waiting.pop(new.id, None)
            return flapper.held or old, False
        is_soon = new.status is Status.DEAD and now_s - flapper.announced_s < CALM_S
        if flapper.is_damped or is_soon:
            flapper.held = flapper.held or old
            self._waiting[new.id] = flapper
            return old, True
        if new.status is Status.DEAD:
            flapper.announced_s = now_s
        self._waiting.pop(new.id, None)
        known, flapper.held = flapper.held or old, None
        return known, False

    def release(self, now_s: float) -> list[tuple[NodeId, MemberView | None]]:
        """Return whose news is due: the member and what subscribers know of it, None if they have missed nothing."""
        due = [(node, flapper) for node, flapper in self._waiting.items() if flapper.due_s <= now_s]
        released = []
        for node, flapper in due:
            released.append((node, flapper.held))
            if flapper.held is not None and flapper.is_dead:
                flapper.announced_s = now_s
            flapper.is_damped, flapper.held = False, None
            del self._waiting[node]
        return released

    def forget(self, now_s: float) -> None:
        """Drop members that have been calm for long."""
        for node, flapper in list(self._flappers.items()):
            is_over = node not in self._waiting and flapper.penalty_at(now_s) < RELEASED_UNDER / 2
            if is_over and now_s - flapper.announced_s >= CALM_S:
                del self._flappers[node]
