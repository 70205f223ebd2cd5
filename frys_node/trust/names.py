"""The issuer's registry of node names (design, fine print 6).

Sans-I/O. A name belongs to one node id until that node has left, or has been dead for so long that a node which asks
for its name may have it: a machine that was replaced. Whoever did not choose its name gets the next free
``name-2``, ``name-3``...; a chosen name that is taken is refused. Calls are synchronous, so two joins at the same time
cannot get the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from frys_node.base.errors import CorruptData, Overloaded
from frys_node.base.types import NodeId
from frys_node.secure.certificates import valid_name
from frys_node.secure.errors import NameTaken

NAMES_PATH: Final = "issuer/names.json"
NAMES_MAX = 65_536
_SUFFIX_MAX = 10_000


class NameRegistry:
    """Names by node. The caller persists `encode()` before it tells anybody of a change."""

    __slots__ = ("_names", "_nodes")

    def __init__(self) -> None:
        self._nodes: dict[str, NodeId] = {}
        self._names: dict[NodeId, str] = {}

    def claim(
        self, name: str, node: NodeId, *, is_chosen: bool, is_lost: Callable[[NodeId], bool] = lambda _node: False
    ) -> str:
        """Give a node a name and return it; asking again gives the same node the same name.

        `is_lost` says whether a node has been dead for so long that its name may be taken over.

        Raises:
            NameTaken: The name was chosen and belongs to another node that has not left. Nothing was changed.
            InvalidCertificate: It cannot be a node's name. Nothing was changed.
        """
        valid_name(name)
        mine = self.find(node)
        if mine is not None and (mine == name or not is_chosen):
            return mine
        holder = self._nodes.get(name)
        if holder is not None and is_chosen and is_lost(holder):
            self.release(holder)
            holder = None
        if holder is not None and is_chosen:
            raise NameTaken(
                f"the name '{name}' belongs to node {holder}",
                hint="choose another --name, or let that node leave: frys-node leave, or force-leave if it is dead",
            )
        chosen = name if holder is None else self._next_free(name)
        if len(self._nodes) >= NAMES_MAX:
            raise Overloaded(f"the cluster holds {NAMES_MAX} names")
        if mine is not None:
            del self._nodes[mine]
        self._nodes[chosen], self._names[node] = node, chosen
        return chosen

    def _next_free(self, name: str) -> str:
        for number in range(2, _SUFFIX_MAX):
            suffix = f"-{number}"
            candidate = name[: 63 - len(suffix)].rstrip(".-") + suffix
            if candidate not in self._nodes:
                return candidate
        raise NameTaken(f"'{name}' and every '{name}-N' are taken", hint="choose another --name")

    def find(self, node: NodeId) -> str | None:
        """The name of a node, if it has one."""
        return self._names.get(node)

    def holder(self, name: str) -> NodeId | None:
        """The node that has a name, if one has it."""
        return self._nodes.get(name)

    def release(self, node: NodeId) -> bool:
        """Free the name of a node; True if it had one."""
        name = self._names.pop(node, None)
        if name is not None:
            del self._nodes[name]
        return name is not None

    def all(self) -> list[tuple[str, NodeId]]:
        """Every name with its node, sorted."""
        return sorted(self._nodes.items())

    def encode(self) -> bytes:
        """Return the registry's bytes for the disk."""
        return msgspec.json.encode(dict(self.all()))

    def restore(self, data: bytes) -> None:
        """Take the names of `encode`.

        Raises:
            CorruptData: The bytes are damaged. The registry is unchanged.
        """
        try:
            stored = {name: NodeId(node) for name, node in msgspec.json.decode(data, type=dict[str, str]).items()}
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptData(f"{NAMES_PATH} is damaged: {error}", hint="restore it from a backup") from error
        self._nodes, self._names = stored, {node: name for name, node in stored.items()}
