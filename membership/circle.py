"""Who stands next to whom: the live members in a circle, by id.

Sans-I/O. Ids are random, so neighbours share neither machine nor zone more often than chance has it, and everybody who
knows the same members sees the same circle without a word.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from frys_node.base.types import NodeId

WATCHERS = 3
"""Members that watch each one: the next three in the circle."""

HELPERS = 3
"""Members beyond them that try a port when a watcher asks."""


class Circle:
    """The circle, this node included."""

    __slots__ = ("_nodes", "version")

    def __init__(self, node: NodeId) -> None:
        self._nodes = [node]
        self.version = 0
        """Changes with the circle, and when somebody in it has restarted."""

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, node: NodeId) -> None:
        """Take a node in; nothing happens if it is."""
        at = bisect_left(self._nodes, node)
        if at == len(self._nodes) or self._nodes[at] != node:
            self._nodes.insert(at, node)
            self.version += 1

    def discard(self, node: NodeId) -> None:
        """Let a node go; nothing happens if it is not in."""
        at = bisect_left(self._nodes, node)
        if at < len(self._nodes) and self._nodes[at] == node:
            del self._nodes[at]
            self.version += 1

    def after(self, node: NodeId, count: int) -> list[NodeId]:
        """Return the next `count` nodes of the circle, nearest first, never `node` itself, which need not be in."""
        nodes, start = self._nodes, bisect_right(self._nodes, node)
        found = [*nodes[start : start + count], *nodes[: max(0, start + count - len(nodes))]]
        return [other for other in dict.fromkeys(found) if other != node]

    def before(self, node: NodeId, count: int) -> list[NodeId]:
        """Return the `count` nodes before it, nearest first, likewise."""
        nodes, end = self._nodes, bisect_left(self._nodes, node)
        found = [*reversed(nodes[max(0, end - count) : end]), *reversed(nodes[min(0, end - count) or len(nodes) :])]
        return [other for other in dict.fromkeys(found) if other != node]

    def watchers(self, node: NodeId, count: int = WATCHERS) -> list[NodeId]:
        """Return who watches a node."""
        return self.after(node, count)

    def helpers(self, node: NodeId, count: int = WATCHERS) -> list[NodeId]:
        """Return who stands beyond its watchers."""
        return self.after(node, count + HELPERS)[count:]
