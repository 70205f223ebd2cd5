"""Key/value state: each node writes its own keys, everybody reads them.

Sans-I/O. After van Renesse et al., "Efficient Reconciliation and Flow Control for Anti-Entropy Protocols". Every change
of a node's state gets the next version; a *delta* is everything after a version, and who has a node's state up to
version v has all of it up to v. What is fresh travels as a rumour, as many of the latest changes as fit into a packet;
who finds a gap gets the rest from a peer (`membership.catchup`). Deleted keys remain as tombstones; when the owner
drops some, `floor` says up to which version, and who is behind that gets the whole state instead.

State belongs to a boot: the owner starts empty, and whatever it said in an earlier boot is gone with the first word of
the next. What should outlive a restart belongs into the tags of the settings, or is put again at the start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from frys_node.base.errors import NotFound
from frys_node.base.types import NodeId
from membership.allowance import Allowance
from membership.effects import Tallies
from membership.errors import GossipTooLarge
from membership.events import ORIGINS_MAX, check_name
from membership.rumours import EVENT_NAME_MAX, RUMOURS, Rumours, StateDelta, StateEntry
from membership.voices import Signing

KEYS_MAX = 64
VALUE_BYTES_MAX = 1_024
STATE_BYTES_MAX = 16 * 1_024
"""Keys and values of one node."""

TOMBSTONES_MAX = 64
TOMBSTONE_S = 3_600.0
"""A deletion is remembered this long; who was away for longer gets the whole state."""

CHANGES_PER_S = 20.0
CHANGES_BURST = 128


class NodeState:
    """The state of one boot of one node."""

    __slots__ = ("boot", "entries", "floor", "version", "word")

    def __init__(self, boot: int) -> None:
        self.boot = boot
        self.floor = 0
        self.version = 0
        self.entries: dict[str, StateEntry] = {}
        """In order of their versions."""
        self.word = b""
        """The owner's signature over `signed_bytes`."""

    def copy(self) -> NodeState:
        """Return the same state, to be changed."""
        same = NodeState(self.boot)
        same.floor, same.version, same.word, same.entries = self.floor, self.version, self.word, dict(self.entries)
        return same

    def signed_bytes(self, node: NodeId) -> bytes:
        """Return what the owner signs: all of it, so that whoever tells a part can neither alter nor leave out."""
        whole = StateDelta(node, self.boot, 0, self.floor, self.version, tuple(self.entries.values()))
        return hashlib.sha256(RUMOURS.encode(whole)).digest()

    @property
    def live(self) -> list[StateEntry]:
        """Keys that are there, in order."""
        return sorted((e for e in self.entries.values() if not e.is_deleted), key=lambda entry: entry.key)

    def delta(self, node: NodeId, since: int) -> StateDelta:
        """Return what has changed after a version: everything, if that is before the floor."""
        if since < self.floor or since > self.version:
            since = 0
        entries = tuple(entry for entry in self.entries.values() if entry.version > since)
        return StateDelta(node, self.boot, since, self.floor, self.version, entries, self.word)

    def fresh(self, node: NodeId, budget_bytes: int) -> StateDelta:
        """Return the delta with as many of the latest changes as the budget allows."""
        chosen: list[StateEntry] = []
        since = 0
        empty = StateDelta(node, self.boot, self.version, self.floor, self.version, (), self.word)
        budget_bytes -= len(RUMOURS.encode(empty)) + 4
        for entry in reversed(self.entries.values()):
            budget_bytes -= len(entry.key.encode()) + len(entry.value) + ENTRY_BYTES
            if budget_bytes < 0:
                since = max(entry.version, self.floor)
                break
            chosen.append(entry)
        return StateDelta(node, self.boot, since, self.floor, self.version, tuple(reversed(chosen)), self.word)

    def merge(self, delta: StateDelta) -> list[StateEntry]:
        """Take a delta of this boot that goes on from what is here; returns what has changed for a reader."""
        old = dict(self.entries)
        if delta.since == 0:
            self.entries = {}
        for entry in delta.entries:
            self.entries.pop(entry.key, None)
            self.entries[entry.key] = entry
        self.version, self.word = delta.version, delta.word
        self.collect(delta.floor)
        changed = [
            entry
            for key, entry in self.entries.items()
            if _value(old.get(key)) != _value(entry) and entry.version > (old[key].version if key in old else 0)
        ]
        gone = [
            StateEntry(key, b"", delta.version, True)
            for key, entry in old.items()
            if key not in self.entries and not entry.is_deleted
        ]
        return changed + gone

    def collect(self, floor: int) -> None:
        """Drop the tombstones up to a version."""
        if floor > self.floor:
            self.floor = floor
            self.entries = {k: e for k, e in self.entries.items() if not e.is_deleted or e.version > floor}


ENTRY_BYTES = 20
"""What an entry costs beside its key and value, at most."""


def _value(entry: StateEntry | None) -> bytes | None:
    return None if entry is None or entry.is_deleted else entry.value


class States:
    """Everybody's state as one node knows it."""

    def __init__(
        self, node: NodeId, boot: int, rumours: Rumours, room_bytes: int, tallies: Tallies, signing: Signing
    ) -> None:
        """`room_bytes` is what a packet has for one rumour."""
        self._node = node
        self._signing = signing
        self._rumours = rumours
        self._room_bytes = room_bytes
        self._tallies = tallies
        self._allowance: Allowance | None = None
        self._deleted_s: dict[int, float] = {}
        """When this node deleted what, by version."""
        self.by_node: dict[NodeId, NodeState] = {node: NodeState(boot)}
        self.changed: list[tuple[NodeId, StateEntry]] = []
        """Changes that the composing machine has not handed out yet."""

    # This node's own.

    def put(self, key: str, value: bytes, now_s: float) -> StateEntry:
        """Set a key of this node.

        Raises:
            GossipTooLarge: Over a limit. The former value stands.
            GossipTooFast: Over the rate. The former value stands.
        """
        check_name("key", key)
        own = self.by_node[self._node]
        if len(value) > VALUE_BYTES_MAX:
            raise GossipTooLarge(
                f"the value of '{key}' has {len(value)} bytes, the limit is {VALUE_BYTES_MAX}",
                hint="put the data into the cache and its key here",
            )
        others = [entry for entry in own.live if entry.key != key]
        if len(others) >= KEYS_MAX:
            raise GossipTooLarge(f"this node has {KEYS_MAX} keys already", hint="delete one, or join several into one")
        total = sum(map(_size_bytes, others)) + len(key.encode()) + len(value)
        if total > STATE_BYTES_MAX:
            raise GossipTooLarge(
                f"the keys and values of this node would take {total} bytes, the limit is {STATE_BYTES_MAX}",
                hint="delete keys or shorten values",
            )
        return self._change(key, value, False, now_s)

    def delete(self, key: str, now_s: float) -> None:
        """Remove a key of this node.

        Raises:
            NotFound: There is no such key. State is unchanged.
            GossipTooFast: Over the rate. State is unchanged.
        """
        entry = self.by_node[self._node].entries.get(key)
        if entry is None or entry.is_deleted:
            raise NotFound(f"this node has no key '{key[:64]}'", hint="a key is deleted at the node that put it")
        self._change(key, b"", True, now_s)

    def _change(self, key: str, value: bytes, is_deleted: bool, now_s: float) -> StateEntry:
        if self._allowance is None:
            self._allowance = Allowance("changes of state", per_s=CHANGES_PER_S, burst=CHANGES_BURST, now_s=now_s)
        self._allowance.spend(now_s)
        own = self.by_node[self._node]
        own.version += 1
        entry = StateEntry(key, value, own.version, is_deleted)
        own.entries.pop(key, None)
        own.entries[key] = entry
        if is_deleted:
            self._deleted_s[entry.version] = now_s
        self._collect(now_s)
        own.word = self._signing.word(own.signed_bytes(self._node))
        self.changed.append((self._node, entry))
        self._tell(self._node, own)
        return entry

    def _collect(self, now_s: float) -> None:
        """Drop tombstones that are too old or too many."""
        own = self.by_node[self._node]
        standing = {entry.version for entry in own.entries.values() if entry.is_deleted}
        self._deleted_s = {version: at_s for version, at_s in self._deleted_s.items() if version in standing}
        excess = len(self._deleted_s) - TOMBSTONES_MAX
        for position, (version, at_s) in enumerate(list(self._deleted_s.items())):
            if position >= excess and now_s - at_s < TOMBSTONE_S:
                return
            del self._deleted_s[version]
            own.collect(version)

    # Everybody's.

    def take(self, delta: StateDelta, source: NodeId, now_s: float) -> bool:
        """Merge what is said of another node's state, and pass it on; True if it was news.

        The owner has signed the state that comes out, or nothing is taken.
        """
        if delta.node == self._node:
            return False
        held = self.by_node.get(delta.node)
        version = held.version if held is not None and held.boot == delta.boot else 0
        is_stale = held is not None and (
            held.boot > delta.boot or (held.boot == delta.boot and delta.version <= version)
        )
        if is_stale:
            return self._refuse("known")
        if not _is_sound(delta):
            return self._refuse("unacceptable")
        if delta.since > version:
            return self._refuse("gap")
        if held is None and len(self.by_node) >= ORIGINS_MAX:
            return self._refuse("too_many")
        is_same = held is not None and held.boot == delta.boot
        state = held.copy() if held is not None and is_same else NodeState(delta.boot)
        gone = [] if held is None or is_same else [e for e in held.live if e.key not in _keys(delta)]
        changed = state.merge(delta)
        if len(state.entries) > KEYS_MAX + TOMBSTONES_MAX:
            return self._refuse("unacceptable")
        verdict = self._signing.is_word(delta.node, state.signed_bytes(delta.node), delta.word)
        if not self._rumours.judged(verdict, StateDelta, delta.node, source, now_s):
            return False
        self.by_node[delta.node] = state
        changed += [StateEntry(e.key, b"", delta.version, True) for e in gone]
        self.changed += [(delta.node, entry) for entry in changed]
        self._tell(delta.node, state)
        return True

    def _refuse(self, why: str) -> bool:
        self._tallies.add(self._tallies.rumours_dropped, why, "state")
        return False

    def _tell(self, node: NodeId, state: NodeState) -> None:
        """Pass on the latest of a node's state."""
        self._rumours.queue.put(state.fresh(node, self._room_bytes))

    def forget(self, is_member: Callable[[NodeId], bool]) -> None:
        """Drop the state of everybody who is no member."""
        self.by_node = {n: state for n, state in self.by_node.items() if n == self._node or is_member(n)}


def _keys(delta: StateDelta) -> set[str]:
    return {entry.key for entry in delta.entries}


def _size_bytes(entry: StateEntry) -> int:
    return len(entry.key.encode()) + len(entry.value)


def _is_sound(delta: StateDelta) -> bool:
    """Return False for a delta that no honest node makes."""
    if len(delta.entries) > KEYS_MAX + TOMBSTONES_MAX or len(_keys(delta)) < len(delta.entries):
        return False
    versions = [entry.version for entry in delta.entries]
    if any(version <= delta.since or version > delta.version for version in versions) or versions != sorted(
        set(versions)
    ):
        return False
    size_bytes_max = STATE_BYTES_MAX + TOMBSTONES_MAX * EVENT_NAME_MAX
    return sum(map(_size_bytes, delta.entries)) <= size_bytes_max and max(delta.since, delta.floor) <= delta.version
