"""Nodes that join and leave while others are hurt, one after the other, each at its own pace.

Every change is a function that begins it and one that says whether it is through, so that a run can also begin several
at once and pull the plug (`plug`).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from chaos.cluster import Cluster, HurtNode, say
from frys_node.base.errors import NodeUnreachable, NotFound, NotReady

POLL_S = 0.5
CHANGE_S_MAX = 120.0
"""A change that is not through by then, under faults and load, gets as long again after healing."""


class Change(NamedTuple):
    """A change that was begun."""

    node: HurtNode
    finish: Callable[[], bool]
    """Waits until it is through; False if that takes too long."""


class Turnover:
    """Joins and leaves of one run; `joined` and `left` count those that are through."""

    def __init__(self, cluster: Cluster, rng: random.Random, every_s: float) -> None:
        self._cluster = cluster
        self._rng = rng
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="turnover")
        self.joined = 0
        self.left = 0
        self.late: list[Change] = []
        self.stuck: list[str] = []
        """Not through after healing either."""
        self.slowest_s = 0.0
        self.leaving: set[HurtNode] = set()
        """They may end by themselves at any moment, and must not be started again then."""
        self.removed = 0
        self.dead: set[HurtNode] = set()
        """Killed to be removed: they stay down until they are."""

    def start(self) -> None:
        """Begin with a join; then a leave and a join take turns, each at least once."""
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more, and wait until what was begun is through."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(CHANGE_S_MAX * 2)

    def _run(self) -> None:
        while True:
            self.finish(self.join())
            self._stop.wait(self._every_s)
            self.finish(self.leave())
            if self._stop.wait(self._every_s):
                break

    def finish(self, change: Change) -> None:
        """Wait for a change; one that takes too long is taken up again by `settle`."""
        if not change.finish():
            say(f"{change.node.name} is not through yet")
            self.late.append(change)

    def settle(self) -> None:
        """Wait for what was late, now that nothing hurts any more."""
        self.stuck += [change.node.name for change in self.late if not change.finish()]

    def join(self) -> Change:
        """Start one more node."""
        node = self._cluster.add()
        say(f"{node.name} joins")
        node.start(self._seeds(node))
        return Change(node, lambda: self._finish_join(node))

    def _finish_join(self, node: HurtNode) -> bool:
        """Wait until the ring has it."""
        done = self.until(f"the join of {node.name}", lambda: self._has_joined(node))
        self.joined += done
        return done

    def _has_joined(self, node: HurtNode) -> bool:
        if not node.is_running and not node.is_member:
            # No seed answered while the plug was out. A person would start it again too.
            node.start(self._seeds(node))
        return self._is_in_ring(node, wanted=True)

    def leave(self) -> Change:
        """Ask one node to leave, never the issuer: joins and leaves need it."""
        node = self.choose()
        say(f"{node.name} leaves")
        self.leaving.add(node)
        self._ask_to_leave(node)
        return Change(node, lambda: self._finish_leave(node))

    def choose(self) -> HurtNode:
        """Return a node that may go: one of the ring that is not the issuer and does not leave already."""
        ring = [node for node in self._cluster.nodes[1:] if self._is_in_ring(node, wanted=True)]
        staying = [node for node in ring or self._cluster.nodes[1:] if node not in self.leaving]
        return self._rng.choice(staying)

    def _finish_leave(self, node: HurtNode) -> bool:
        """Wait until the ring is without it and its process has ended; a crash in between makes it forget its wish."""
        done = self.until(f"the leave of {node.name}", lambda: self._has_left(node))
        self.left += done
        if done:
            self.leaving.discard(node)
            self.forget(node)
        return done

    def forget(self, node: HurtNode) -> None:
        """Let a node go that is on the ring no more."""
        node.stop()
        self._cluster.nodes.remove(node)

    def _has_left(self, node: HurtNode) -> bool:
        if node.has_left:
            return self._is_in_ring(node, wanted=False)
        if node.is_running:
            self._ask_to_leave(node)
        return False

    def _ask_to_leave(self, node: HurtNode) -> None:
        """Ask unless it is at it."""
        state = self._asked(node, "GET", "/v1/leave")
        if state is not None and state["state"] in ("not leaving", "failed"):
            self._asked(node, "POST", "/v1/leave")

    @staticmethod
    def _asked(node: HurtNode, method: str, path: str) -> Any:
        """Ask a node that may be down; what it refuses is another matter."""
        try:
            return node.call(method, path)
        except (NodeUnreachable, NotReady, NotFound):
            return None

    def _is_in_ring(self, node: HurtNode, *, wanted: bool) -> bool:
        """True if the issuer says so, under a record that nothing is under way in."""
        ring = self._asked(self._cluster.nodes[0], "GET", "/v1/ring")
        if ring is None or ring["phase"] != "stable":
            return False
        return any(member["name"] == node.name for member in ring["members"]) is wanted

    def _seeds(self, joiner: HurtNode) -> list[str]:
        return [node.bind for node in self._cluster.nodes if node is not joiner and node.is_running]

    def until(self, what: str, is_done: Callable[[], bool]) -> bool:
        """Poll for a change; False if it takes too long."""
        begun = time.monotonic()
        while time.monotonic() - begun < CHANGE_S_MAX:
            if is_done():
                self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
                say(f"{what} took {time.monotonic() - begun:.1f} s")
                return True
            time.sleep(POLL_S)
        return False
