"""What a source of a takeover holds of a unit in memory, and what it may have forgotten.

Sans-I/O. Theory of operation. A store that evicts has a floor (`Evicting`): of a key that it does not hold it knows
that nothing below the floor counts any more, a deletion perhaps included. Who takes the unit over from several such
sources has to hold, for each key, the newest of what they know. One floor over all is not enough for that: what is read
often is old, lies below every floor, and is held all the same. So the taker notes which keys each source holds, in the
leaves that it sends and in those that are equal. Once it has all, it forgets what is below a source's floor and not
held there, and takes the highest floor as its own: from then on a read of such a key is a miss, and repair is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication.version import highest


class Listing:
    """One source's keys, and the highest floor that it told while it listed them."""

    __slots__ = ("_keys", "floor")

    def __init__(self) -> None:
        self.floor: Version | None = None
        self._keys: set[bytes] = set()

    def add(self, keys: Iterable[bytes], floor: Version | None) -> None:
        """Take down that the source holds some keys, and what its floor is now."""
        self._keys.update(keys)
        self.floor = highest(self.floor, floor)

    def covers(self, entry: Entry) -> bool:
        """True if the source has forgotten all that it knew under the key, up to that version at least."""
        return self.floor is not None and entry.version < self.floor and entry.key not in self._keys
