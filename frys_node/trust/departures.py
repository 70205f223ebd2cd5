"""The issuer's table of nodes that were admitted and hold no name any more.

Sans-I/O. Three kinds: those that have left for good, whose admission is over; those whose name was freed for another
(`force-leave`, a machine that was replaced), which are members again when they come back; and those that another
issuer's record had on the ring and nobody here knew, which are members once an operator confirms it. Whoever is neither
here nor in the registry of names was never admitted, whatever its certificate says: a stolen key makes such.
"""

from __future__ import annotations

from typing import Final

import msgspec

from frys_node.base.errors import CorruptData
from frys_node.base.types import NodeId
from frys_node.secure.certificates import EXPIRY_GRACE_S, NODE_LIFE_DAYS

DEPARTURES_PATH: Final = "issuer/departures.json"
DEPARTURES_MAX = 4_096
"""Rows. Beyond it those that left first are forgotten; the issuer renews nobody whom it does not know."""
ADOPTED_MAX = 256
"""Of those, rows of nodes that were taken from a record: whoever writes one may put there whom it likes."""
REMEMBER_S = NODE_LIFE_DAYS * 86_400 + EXPIRY_GRACE_S
"""How long a node that left is remembered: after that no certificate of it lives."""


class Departure(msgspec.Struct, frozen=True):
    """One node without a name."""

    name: str
    """The last one that it had."""
    left_at: int | None = None
    """Unix seconds; None if only its name was freed."""
    is_adopted: bool = False
    """Taken from a record; nobody has confirmed that it was ever admitted."""


class Departures:
    """Rows by node, oldest first. The caller persists `encode()` before it tells anybody of a change."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: dict[NodeId, Departure] = {}

    def find(self, node: NodeId) -> Departure | None:
        """Return a node's row."""
        return self._rows.get(node)

    def has_left(self, node: NodeId) -> bool:
        """True if the node has left for good."""
        row = self._rows.get(node)
        return row is not None and row.left_at is not None

    def left(self) -> list[NodeId]:
        """Return whoever has left for good, the latest last."""
        return [node for node, row in self._rows.items() if row.left_at is not None]

    def free(self, node: NodeId, name: str) -> None:
        """Note that a node's name is another's from now on; one that has left stays so."""
        if not self.has_left(node) and not self.is_adopted(node):
            self._keep(node, Departure(name), 0)

    def end(self, node: NodeId, name: str, now_unix_s: int) -> bool:
        """Note that a node has left for good; False if that is known."""
        if self.has_left(node):
            return False
        self._keep(node, Departure(name, now_unix_s), now_unix_s)
        return True

    def is_adopted(self, node: NodeId) -> bool:
        """True if a record alone speaks for the node."""
        row = self._rows.get(node)
        return row is not None and row.is_adopted

    def adopted(self) -> list[tuple[NodeId, str]]:
        """Return whom a record alone speaks for, with what they call themselves, oldest first."""
        return [(node, row.name) for node, row in self._rows.items() if row.is_adopted]

    def adopt(self, node: NodeId, name: str) -> bool:
        """Note a node that a record alone speaks for; False if there are `ADOPTED_MAX` of them."""
        if len(self.adopted()) >= ADOPTED_MAX:
            return False
        self._keep(node, Departure(name, is_adopted=True), 0)
        return True

    def confirm(self, node: NodeId) -> bool:
        """Note that an operator speaks for such a node; False if it is none."""
        row = self._rows.get(node)
        if row is None or not row.is_adopted:
            return False
        self._rows[node] = Departure(row.name)
        return True

    def named(self, node: NodeId) -> None:
        """Note that a node has a name again."""
        self._rows.pop(node, None)

    def _keep(self, node: NodeId, row: Departure, now_unix_s: int) -> None:
        self._rows.pop(node, None)
        over = [one for one, kept in self._rows.items() if kept.left_at and kept.left_at + REMEMBER_S < now_unix_s]
        for one in over:
            del self._rows[one]
        while len(self._rows) >= DEPARTURES_MAX:
            # A node that left is refused either way; one whose name was freed may come back.
            del self._rows[next(iter(self.left()), next(iter(self._rows)))]
        self._rows[node] = row

    def encode(self) -> bytes:
        """Return the table's bytes for the disk."""
        return msgspec.json.encode(self._rows)

    def restore(self, data: bytes) -> None:
        """Take the rows of `encode`.

        Raises:
            CorruptData: The bytes are damaged. The table is unchanged.
        """
        try:
            rows = msgspec.json.decode(data, type=dict[str, Departure])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptData(f"{DEPARTURES_PATH} is damaged: {error}", hint="restore it from a backup") from error
        self._rows = {NodeId(node): row for node, row in rows.items()}
