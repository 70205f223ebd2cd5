"""Whether it is this node that is cut off, rather than all the others dead.

Sans-I/O. A member that dies leaves helpers that answer nack. A node that is cut off, or so starved that it misses what
it is sent, hears neither ack nor nack: such a probe is *mute*. The rule: among the last `WINDOW` probes more than a
third are mute, they were of at least three different members, and there are at least four nodes. Then this node is
isolated: it accuses nobody of silence and lets no suspicion of silence end in death, until three probes in a row are
answered, by ack or nack. A host that refuses a connection answers too: the port of a mute member is tried, so that the
last process of a cluster that was killed around it, on hosts that live, buries the others.

Watchers see it sooner than probes, and would bury whom they watch first: a silence in which nobody else speaks either
is no silence of one. With three watchers a node is sent at least three beats per interval, so one that hears nothing at
all for an interval, when it would accuse somebody, is isolated at once.

Small clusters. With two nodes there is no helper, and with three both others may be dead: silence looks the same from
either side, and a killed peer must be found, so there is no isolation below four. With four and more, one dead member
is one target and its helpers do answer. A survivor all of whose three or more peers lose their power at once calls
itself isolated and keeps them as they were, all of them unwell for new work; nothing that needs them works either way.
Partitions. Each half of an even split finds helpers on its own side and buries the other half; a minority of one or two
in ten finds none and holds still.
"""

from __future__ import annotations

from collections import deque

from frys_node.base.types import NodeId

WINDOW = 9
"""Probes looked back at."""

TARGETS_MIN = 3
"""Different members that must have been mute."""

NODES_MIN = 4
"""Smallest cluster, this node included, in which a node can call itself isolated."""

ANSWERED_MIN = 3
"""Answered probes in a row that end the isolation."""


HOST_HEARD_S = 10.0
"""A host that has refused a connection within this time has spoken, whatever the processes do."""


class Isolation:
    """Looks back at one node's probes."""

    __slots__ = ("_hush_s", "_is_isolated", "_mute")

    def __init__(self) -> None:
        self._mute: deque[NodeId | None] = deque(maxlen=WINDOW)
        """Whom the last probes were of if they were mute, None for the others."""
        self._hush_s = 0.0
        """How long nobody had spoken when that was reason enough; 0 if the probes were the reason."""
        self._is_isolated = False

    @property
    def is_isolated(self) -> bool:
        """True while this node takes itself to be cut off."""
        return self._is_isolated

    @property
    def account(self) -> str:
        """What the verdict rests on, for people."""
        if self._hush_s:
            return f"not a packet from anybody for {self._hush_s:.2f} s"
        mute = [target for target in self._mute if target is not None]
        return f"no ack and no nack for {len(mute)} of the last {len(self._mute)} probes, of {len(set(mute))} members"

    def observe(self, node: NodeId, *, is_mute: bool, node_count: int) -> bool:
        """Take how a probe ended; True if the verdict changed."""
        self._mute.append(node if is_mute else None)
        return self._judge(node_count)

    def observe_refusal(self, node: NodeId, *, node_count: int) -> bool:
        """Take that the host of a mute member refused a connection: an answer; True if the verdict changed."""
        if node not in self._mute:
            return False
        last = len(self._mute) - 1 - [*reversed(self._mute)].index(node)
        self._mute[last] = None
        return self._judge(node_count)

    def observe_hush(self, hush_s: float, *, node_count: int) -> bool:
        """Take that nobody has spoken for an interval in which each watcher sent beats; True if the verdict changed."""
        if self._is_isolated or node_count < NODES_MIN:
            return False
        self._is_isolated = True
        self._hush_s = hush_s
        self._mute.clear()
        return True

    def _judge(self, node_count: int) -> bool:
        mute = [target for target in self._mute if target is not None]
        answered = next((n for n, target in enumerate(reversed(self._mute)) if target is not None), len(self._mute))
        before = self._is_isolated
        if node_count < NODES_MIN or answered >= ANSWERED_MIN:
            self._is_isolated = False
        elif 3 * len(mute) > len(self._mute) and len(set(mute)) >= TARGETS_MIN:
            self._is_isolated = True
        if before and not self._is_isolated:
            self._mute.clear()
            self._hush_s = 0.0
        return before != self._is_isolated
