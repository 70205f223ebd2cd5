"""The taker's and the source's side of a pull: tree, then the leaves that differ, page by page.

Sans-I/O. One mechanism serves the bulk in the simulator, the passes of rules 10 and 11, the refill of a memory unit
after a restart, and anti-entropy. It is one-way: the taker asks for what it lacks or has older, so it ends under load.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum

from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication import hashtree
from frys_node.replication.evictions import Listing
from frys_node.replication.messages import LeafAsk, LeafPage, Tree, TreeAsk
from frys_node.replication.unit import HeldUnit, pages

SESSIONS_MAX = 64
"""Key lists that a source keeps for takers; a forgotten one is built again."""

PAGE_KEYS_MAX = 4_096
"""Keys looked up for one page."""


class Purpose(Enum):
    """Why a unit is pulled."""

    BULK = "bulk"
    FENCED = "pass"
    REFILL = "refill"
    CATCH_UP = "catch_up"
    SYNC = "sync"

    @property
    def is_exempt(self) -> bool:
        """True if the source's floors decide what is taken, and not this node's (rule 18)."""
        return self in (Purpose.BULK, Purpose.FENCED, Purpose.REFILL)


class Pull:
    """One taker's pull of one unit from one source."""

    __slots__ = (
        "after",
        "early",
        "epoch",
        "is_first",
        "leaves",
        "listing",
        "purge_floor",
        "purpose",
        "retry_s",
        "roots",
        "silent_count",
        "source",
        "strays",
        "taken_bytes",
        "token",
        "unit",
        "write_floor",
    )

    def __init__(self, token: int, unit: UnitId, source: NodeId, epoch: Epoch, purpose: Purpose) -> None:
        self.token = token
        self.unit = unit
        self.source = source
        self.epoch = epoch
        self.purpose = purpose
        self.leaves: bytes | None = None
        self.after = b""
        self.is_first = True
        self.retry_s = 0.0
        self.silent_count = 0
        self.taken_bytes = 0
        self.write_floor: Version | None = None
        self.purge_floor: Version | None = None
        """The source's floors, as its tree told them."""
        self.strays: list[Entry] | None = None
        """What is held here below the source's purge floor in the leaves that differ: there the source is right."""
        self.early: dict[bytes, Version] | None = None
        """What the taker had been written early when it asked for the first time; see `HeldUnit.strays`."""

        self.listing: Listing | None = None
        """Of a unit whose store evicts, and that may be complete after this pull: what the source holds of it."""
        self.roots: set[bytes] = set()
        """The roots that the source was asked to compare with; more than one when the question was asked again."""

    def request(self, held: HeldUnit | None) -> TreeAsk | LeafAsk:
        """Return the message that asks for what is missing next; sent again when no answer comes."""
        if self.leaves is None:
            if self.early is None and held is not None:
                self.early = dict(held.early)
            root = b"" if held is None else hashtree.root(held.tree())
            self.roots.add(root)
            return TreeAsk(self.epoch, self.unit, self.token, root)
        return LeafAsk(self.epoch, self.unit, self.token, self.leaves, self.after, self.is_first)

    def must_ask_again(self, held: HeldUnit, tree: Tree) -> bool:
        """Take down the source's floors; True if what was compared may have changed below them meanwhile.

        From now on this node refuses writes there too, so nothing older than the source's floor slips in unseen.
        """
        self.write_floor, self.purge_floor = tree.write_floor, tree.purge_floor
        if not self.purpose.is_exempt or tree.write_floor is None or held.is_sealed_at(tree.write_floor):
            return False
        held.raise_floors(tree.write_floor, None)
        self.early = None
        return True

    def take_tree(self, held: HeldUnit, tree: Tree) -> bool:
        """Compare trees; True if nothing differs, so that the pull is finished."""
        if self.leaves is None:
            # Whatever came in here since the question was asked, the source has nothing beyond what was held then.
            self.leaves = b"" if tree.is_equal else hashtree.differing(held.tree(), tree.leaves)
            if self.purpose.is_exempt and self.purpose is not Purpose.BULK and held.evicting is not None:
                self._list_equal(held, tree)
        return not self.leaves

    def _list_equal(self, held: HeldUnit, tree: Tree) -> None:
        """Take down what the source holds in the leaves that are equal: it will not send them."""
        self.listing = Listing()
        assert self.leaves is not None
        if tree.evict_floor is None:
            return
        if tree.is_equal and self.roots != {hashtree.root(held.tree())}:
            # What is held here has changed since, and nobody knows any more which of it the source has.
            self.leaves = hashtree.ALL_LEAVES
        keys = held.store.keys()
        if self.leaves:
            differing = frozenset(self.leaves)
            keys = (key for key in keys if hashtree.leaf_of(key) not in differing)
        self.listing.add(keys, tree.evict_floor)

    def known_early(self, held: HeldUnit, tree: Tree) -> dict[bytes, Version]:
        """Return what was written early to the taker and is at the source too, as its tree tells; after `take_tree`."""
        if tree.is_equal:
            return self.early or {}
        leaves = frozenset(self.leaves or b"")
        return {key: version for key, version in held.early.items() if hashtree.leaf_of(key) not in leaves}

    def righted(self, held: HeldUnit, page: LeafPage) -> tuple[list[bytes], list[Entry]]:
        """Return the keys to drop and the entries to put back by this page: the source is right below its purge floor.

        Whatever is held there and the source lacks is dead; whatever it has older is what all had agreed on (rule 18).
        """
        floor = self.purge_floor
        if floor is None or not held.durable or not self.purpose.is_exempt or self.leaves is None:
            return [], []
        if self.strays is None:
            keys = hashtree.keys_in(held.store.keys(), self.leaves)
            found = (entry for entry in held.store.get(keys) if entry is not None and entry.version < floor)
            self.strays = sorted(found, key=lambda entry: entry.key, reverse=True)
        theirs = {entry.key: entry for entry in page.entries}
        last = page.entries[-1].key if page.has_more and page.entries else None
        passed: list[bytes] = []
        while self.strays and (last is None or self.strays[-1].key <= last):
            passed.append(self.strays.pop().key)
        dropped: list[bytes] = []
        put_back: list[Entry] = []
        for mine in held.store.get(passed):
            if mine is None or mine.version >= floor:
                continue  # it was written anew since the first page, and the source lists what it held then
            right = theirs.get(mine.key)
            if right is None:
                dropped.append(mine.key)
            elif right.version < mine.version:
                put_back.append(right)
        return dropped, put_back

    def taken(self, held: HeldUnit, page: LeafPage) -> Sequence[Entry]:
        """Return the entries of a page that may be taken: none that is dead by this node's own purge floor.

        A source whose purge floor is as high as this node's knows of the same dead, so a pass takes all it has.
        """
        mine, theirs = held.purge_floor, self.purge_floor
        if self.purpose.is_exempt and (mine is None or (theirs is not None and theirs >= mine)):
            return page.entries
        return held.alive(page.entries)

    def take_page(self, page: LeafPage) -> bool:
        """Move on past the page; True if it was the last. A page that was not asked for is not passed here."""
        if page.entries:
            self.after = page.entries[-1].key
        if self.listing is not None:
            self.listing.add((entry.key for entry in page.entries), page.evict_floor)
        self.is_first = False
        return not page.has_more

    def expects(self, page: LeafPage) -> bool:
        """True if the page answers the request that is open now."""
        return self.leaves is not None and page.after == self.after


class PullSource:
    """What a source remembers between pages: the keys as they were when the taker began."""

    __slots__ = ("_sessions",)

    def __init__(self) -> None:
        self._sessions: OrderedDict[tuple[NodeId, int], list[bytes]] = OrderedDict()

    def page(self, held: HeldUnit, taker: NodeId, ask: LeafAsk) -> tuple[list[Entry], bool]:
        """Return a page of entries above `ask.after`, and whether more follow.

        Entries are read as they are now: newer ones than at the beginning are as good for the taker.
        """
        session = (taker, ask.pull)
        keys = None if ask.is_first else self._sessions.get(session)
        if keys is None:
            keys = hashtree.keys_in(held.store.keys(), ask.leaves)
            self._sessions[session] = keys
            if len(self._sessions) > SESSIONS_MAX:
                self._sessions.popitem(last=False)
        start = 0 if ask.is_first else bisect_right(keys, ask.after)
        wanted = keys[start : start + PAGE_KEYS_MAX]
        found: Sequence[Entry] = [entry for entry in held.store.get(wanted) if entry is not None]
        page = next(pages(found), [])
        if page and page[-1].key != wanted[-1]:
            return page, True
        has_more = start + len(wanted) < len(keys)
        if has_more and not page:
            # Every key of this stretch was evicted meanwhile: go on behind it instead of sending an empty page.
            return self.page(held, taker, LeafAsk(ask.epoch, ask.unit, ask.pull, ask.leaves, wanted[-1], False))
        if not has_more:
            self._sessions.pop(session, None)
        return page, has_more
