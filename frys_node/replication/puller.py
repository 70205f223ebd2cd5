"""Taking over what other replicas hold: bulk, passes, refill and anti-entropy, each a set of pulls.

Sans-I/O. Pulls are bound to the record under which they began (rule 15): adopting another one ends them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from random import Random

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.replication.bulk_progress import BulkProgress
from frys_node.replication.effects import Effect, Send
from frys_node.replication.messages import FloorsRecord, LeafPage, PullReply, RightedRecord, Tree
from frys_node.replication.pull import Pull, Purpose
from frys_node.replication.takeover import Takeover
from frys_node.replication.unit import HeldUnit, UnitTable
from frys_node.replication.version import highest

PULLS_MAX = 64
"""Pulls under way at once; the others wait in order."""

REFILLS_MAX = PULLS_MAX // 2
"""Of these, for units in memory: durable ones never wait behind members that have nothing to give."""

COPIES_MAX = 8
"""Of these, for bulk copies: more of them share the same rate, and wait for it so long that they begin anew."""

STARTS_MAX = 8
"""Pulls begun in one turn: for each this node's own hash tree is looked at, and adopting a record asks for hundreds.
The next are begun in the next turn, or where one ends."""

REASK_S = 1.0
"""A member that has nothing to give is asked again for a refill after this; others take its place meanwhile."""

RETRY_S = 0.3
"""A pull that hears nothing for so long asks again."""

RETRY_GROWTH_MAX = 6
"""The pause grows with each silence to at most so many times RETRY_S."""

SILENT_MAX = 3
"""After so many silences a pull makes room for one that waits."""

COPY_SILENT_MAX = 64
"""The same for a copy that has begun, from a source that looks usable: it may be at its rate for a minute and more, and
another source would have to compare, and send, its tree anew."""

REFILL_SILENT_MAX = 2
"""The same for refills, which are many and may all ask one node that is down."""

ROUNDS_MAX = 4
"""After so many rounds a takeover drops what no source was found to hold, though floors went on rising."""

Asked = tuple[UnitId, NodeId, Purpose, Epoch]
"""A pull that waits for its turn."""


class Puller:
    """The pulls of one node."""

    def __init__(
        self, node: NodeId, table: UnitTable, rng: Random, is_usable: Callable[[NodeId], bool] = lambda _node: True
    ) -> None:
        self._node = node
        self._table = table
        self._rng = rng
        self._is_usable = is_usable
        self._next_token = rng.getrandbits(40) << 20
        self.bulks = BulkProgress()
        self._takeovers: dict[UnitId, Takeover] = {}
        self._pulls: dict[int, Pull] = {}
        self._queue: deque[Asked] = deque()
        self._copies: deque[Asked] = deque()
        """Bulk copies, which nobody waits for."""
        self._refills: deque[tuple[float, Asked]] = deque()
        """Units in memory are many, and may wait for members that have nothing either: they stand back. With each, the
        instant before which it is not asked (again)."""
        self._parked: dict[Asked, Pull] = {}
        """Passes that made room for others: they go on where they were, for their source may have much to send."""
        self._starts_left = STARTS_MAX
        self._quiet_until_s = -math.inf
        self._more_at_s = math.inf
        """When the next of those that wait may be begun; infinite while all places are taken or nothing waits."""

    def __len__(self) -> int:
        return len(self._takeovers)

    @property
    def active(self) -> int:
        """Pulls under way or waiting, anti-entropy included."""
        return len(self._pulls) + len(self._queue) + len(self._copies) + len(self._refills)

    def busy_with(self, unit: UnitId) -> Purpose | None:
        """Return what the unit is being taken over for, if it is."""
        takeover = self._takeovers.get(unit)
        return takeover.purpose if takeover else None

    def has(self, purpose: Purpose) -> bool:
        """True while a takeover of that purpose is under way."""
        return any(takeover.purpose is purpose for takeover in self._takeovers.values())

    def cancel_all(self, until_s: float) -> None:
        """End every pull: another record is in force. The next are begun from that instant on."""
        self._quiet_until_s = until_s
        self.bulks.clear()
        self._takeovers.clear()
        self._pulls.clear()
        self._queue.clear()
        self._copies.clear()
        self._refills.clear()
        self._parked.clear()
        self._more_at_s = math.inf

    def cancel(self, unit: UnitId) -> None:
        """End the pulls of one unit."""
        self._takeovers.pop(unit, None)
        self._pulls = {token: pull for token, pull in self._pulls.items() if pull.unit != unit}
        self._parked = {asked: pull for asked, pull in self._parked.items() if pull.unit != unit}

    def cancel_sync(self, unit: UnitId) -> None:
        """End the exchanges of one unit: what is on its way was read before all agreed to free what hid it."""
        self._pulls = {
            token: pull for token, pull in self._pulls.items() if pull.unit != unit or pull.purpose is not Purpose.SYNC
        }

    def start(self, takeover: Takeover, now_s: float) -> list[Effect]:
        """Begin a takeover; finished at once when no source is needed."""
        if takeover.needed <= 0:
            return takeover.then(now_s)
        self._takeovers[takeover.unit] = takeover
        if takeover.purpose is Purpose.BULK:
            self.bulks.begin(takeover.unit, takeover.sources, now_s)
        for source in takeover.first_asked(self._rng, self._is_usable):
            self._wait_turn((takeover.unit, source, takeover.purpose, takeover.epoch), now_s)
        return self._start_queued(now_s)

    def sync(self, unit: UnitId, source: NodeId, epoch: Epoch, now_s: float) -> list[Effect]:
        """Take from one source what is newer there (anti-entropy); nothing waits for it."""
        if self.active >= PULLS_MAX:
            return []
        self._queue.append((unit, source, Purpose.SYNC, epoch))
        return self._start_queued(now_s)

    def _wait_turn(self, asked: Asked, not_before_s: float) -> None:
        if asked[2] is Purpose.REFILL:
            self._refills.append((not_before_s, asked))
        else:
            (self._copies if asked[2] is Purpose.BULK else self._queue).append(asked)

    def _start_queued(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        begin_s = max(now_s, self._quiet_until_s)
        while begin_s == now_s and self._starts_left and (waiting := self._next_line()):
            started = self._start_one(waiting.popleft(), now_s)
            self._starts_left -= len(started)
            effects += started
        self._more_at_s = begin_s if self._next_line() else math.inf
        refills = self._count(Purpose.REFILL) if self._refills else 0
        while self._has_due_refill(now_s) and refills < REFILLS_MAX and len(self._pulls) < PULLS_MAX:
            started = self._start_one(self._refills.popleft()[1], now_s)
            refills += len(started)
            effects += started
        return effects

    def _next_line(self) -> deque[Asked] | None:
        """Return those of whom the next may be begun: copies stand behind what quorums wait for."""
        if len(self._pulls) >= PULLS_MAX:
            return None
        if self._queue:
            return self._queue
        return self._copies if self._copies and self._count(Purpose.BULK) < COPIES_MAX else None

    def _count(self, purpose: Purpose) -> int:
        """Return how many pulls of that purpose are under way."""
        return sum(pull.purpose is purpose for pull in self._pulls.values())

    def _has_due_refill(self, now_s: float) -> bool:
        return bool(self._refills) and self._refills[0][0] <= now_s

    def _start_one(self, asked: Asked, now_s: float) -> list[Effect]:
        """Send one request, unless its takeover is over."""
        unit, source, purpose, epoch = asked
        takeover = self._takeovers.get(unit)
        if purpose is not Purpose.SYNC and (takeover is None or takeover.purpose is not purpose):
            return []
        if takeover is not None and source in takeover.unasked:
            takeover.unasked.discard(source)
            takeover.heard_s = now_s
        pull = self._parked.pop(asked, None)
        if pull is None:
            self._next_token += 1
            pull = Pull(self._next_token, unit, source, epoch, purpose)
        pull.retry_s = now_s + RETRY_S
        self._pulls[pull.token] = pull
        return [Send(source, pull.request(self._table.units.get(unit)))]

    def receive(self, source: NodeId, reply: PullReply, now_s: float) -> list[Effect]:
        """Take a tree or a page; anything that no open request asked for is dropped."""
        pull = self._pulls.get(reply.pull)
        held = self._table.units.get(reply.unit)
        if pull is None or held is None or pull.source != source or pull.unit != reply.unit:
            return []
        if reply.epoch != pull.epoch:
            return []
        if not reply.is_complete:
            # It has no data to give (rule 8); ask again later, it may be complete by then. A copy asks another.
            if pull.purpose is Purpose.BULK:
                pull.leaves, pull.after, pull.is_first, pull.taken_bytes = None, b"", True, 0
            else:
                pull.silent_count = 0
            if pull.purpose is Purpose.REFILL:
                self._wait_turn((pull.unit, pull.source, pull.purpose, pull.epoch), now_s + REASK_S)
            if pull.purpose in (Purpose.SYNC, Purpose.REFILL):
                return self._end(pull, now_s)
            return self._call_in(pull, now_s)
        pull.silent_count = 0
        takeover = self._takeovers.get(pull.unit)
        if takeover is not None:
            takeover.heard_s = now_s
            takeover.silent.discard(source)
        try:
            if isinstance(reply, Tree):
                return self._take_tree(pull, held, reply, now_s)
            return self._take_page(pull, held, reply, now_s)
        except MalformedFrame:
            return []

    def _take_tree(self, pull: Pull, held: HeldUnit, tree: Tree, now_s: float) -> list[Effect]:
        if pull.leaves is not None:
            return []
        if tree.floor is not None and pull.purpose is not Purpose.SYNC:
            # What the source had to forget below its floor nobody may bring back to this node either.
            held.raise_floor(tree.floor)
        if pull.must_ask_again(held, tree):
            # Under another number, so that no late copy of this answer is taken for the next.
            del self._pulls[pull.token]
            self._next_token += 1
            pull.token = self._next_token
            self._pulls[pull.token] = pull
            return self._ask(pull, now_s)
        effects = self._free_too(pull, held, tree, now_s)
        is_done = pull.take_tree(held, tree)
        takeover = self._takeovers.get(pull.unit)
        if takeover is not None and held.early:
            takeover.known.update(pull.known_early(held, tree))
        if is_done:
            pull.retry_s = now_s + RETRY_S * RETRY_GROWTH_MAX  # only the disk is waited for
            return effects + self._table.persist(held, (), lambda at_s: self._finished(pull, at_s), now_s)
        return effects + self._ask(pull, now_s)

    def _free_too(self, pull: Pull, held: HeldUnit, tree: Tree, now_s: float) -> list[Effect]:
        """Free the tombstones that all members had agreed on, if the word to do so never came here (rule 16).

        Between complete members of one set, and only below what this one has sealed: it is as all agreed there.
        """
        floor, mine = tree.purge_floor, held.purge_floor
        if floor is None or pull.purpose.is_exempt or not held.complete or not held.is_sealed_at(floor):
            return []
        if mine is not None and mine >= floor:
            return []
        held.raise_floors(None, floor)
        record = FloorsRecord(held.unit, held.write_floor, held.purge_floor)
        return self._table.persist(held, (record,), lambda _at_s: [], now_s)

    def _take_page(self, pull: Pull, held: HeldUnit, page: LeafPage, now_s: float) -> list[Effect]:
        if not pull.expects(page):
            return []
        size_bytes = sum(entry.size_bytes for entry in page.entries)
        pull.taken_bytes += size_bytes
        if pull.purpose is Purpose.BULK:
            self.bulks.took(pull.unit, size_bytes)
        takeover = self._takeovers.get(pull.unit)
        if takeover is not None and pull.purpose in (Purpose.BULK, Purpose.FENCED):
            self.bulks.pulled(pull.unit, pull.source, takeover.rounds, pull.taken_bytes)
        if takeover is not None and held.early:
            takeover.known.update((e.key, e.version) for e in page.entries if held.early.get(e.key) == e.version)
        dropped, put_back = pull.righted(held, page)
        entries = pull.taken(held, page)
        is_last = pull.take_page(page)
        effects: list[Effect] = []
        if dropped or put_back:
            held.right(dropped, put_back)
            record = RightedRecord(held.unit, dropped, put_back)
            effects += self._table.persist(held, (record,), lambda _at_s: [], now_s)
        if is_last:
            pull.retry_s = now_s + RETRY_S * RETRY_GROWTH_MAX  # only the disk is waited for
            effects += self._table.take(held, entries, lambda _top, at_s: self._finished(pull, at_s), now_s)
        else:
            effects += [*self._table.take(held, entries, lambda _top, _at_s: [], now_s), *self._ask(pull, now_s)]
        if pull.purpose is Purpose.BULK:
            # Bit by bit, while nobody waits: a pass asks for the trees of all units, when writes need both sets.
            held.tree()
        return effects

    def _ask(self, pull: Pull, now_s: float) -> list[Effect]:
        pull.retry_s = now_s + RETRY_S * min(1 + pull.silent_count, RETRY_GROWTH_MAX)
        return [Send(pull.source, pull.request(self._table.units.get(pull.unit)))]

    def _end(self, pull: Pull, now_s: float) -> list[Effect]:
        self._pulls.pop(pull.token, None)
        self._starts_left = max(self._starts_left, 1)
        return self._start_queued(now_s)

    def _finished(self, pull: Pull, now_s: float) -> list[Effect]:
        """Everything taken from one source is durable."""
        if self._pulls.get(pull.token) is not pull:
            return []
        effects = self._end(pull, now_s)
        takeover = self._takeovers.get(pull.unit)
        if takeover is None or takeover.purpose is not pull.purpose or takeover.epoch != pull.epoch:
            return effects
        takeover.done.add(pull.source)
        if pull.listing is not None:
            takeover.listings[pull.source] = pull.listing
        takeover.write_floor = highest(takeover.write_floor, pull.write_floor)
        takeover.purge_floor = highest(takeover.purge_floor, pull.purge_floor)
        return effects + self._conclude(takeover, now_s)

    def _conclude(self, takeover: Takeover, now_s: float) -> list[Effect]:
        """End a takeover if enough sources are done."""
        if not takeover.is_finished(self._is_usable):
            return []
        self.cancel(takeover.unit)
        held = self._table.units.get(takeover.unit)
        if held is not None and takeover.rounds < ROUNDS_MAX and held.strays(takeover.write_floor, takeover.known):
            # A source may have been written the same after it answered. Nothing below the floor comes from now on,
            # so the next answers are the last word.
            held.raise_floors(takeover.write_floor, None)
            takeover.begin_again()
            return self.start(takeover, now_s)
        self.bulks.done(takeover.unit)
        return takeover.then(now_s) + self._start_queued(now_s)

    def _call_in(self, pull: Pull, now_s: float) -> list[Effect]:
        """A source has nothing to say: a pass does without it or asks one more; a copy changes its source instead."""
        takeover = self._takeovers.get(pull.unit)
        if takeover is None or takeover.purpose is not Purpose.FENCED:
            return []
        takeover.silent.add(pull.source)
        if not takeover.reserve:
            return self._conclude(takeover, now_s)
        self._wait_turn((takeover.unit, takeover.reserve.popleft(), takeover.purpose, takeover.epoch), now_s)
        return self._start_queued(now_s)

    def expire(self, purpose: Purpose, before_s: float, now_s: float) -> list[Effect]:
        """Finish hopeless takeovers of that purpose, begun before an instant, with whatever was taken."""
        expired = [
            takeover
            for takeover in self._takeovers.values()
            if takeover.purpose is purpose and takeover.started_s <= before_s and takeover.is_hopeless(now_s)
        ]
        effects: list[Effect] = []
        for takeover in expired:
            self.cancel(takeover.unit)
            effects += takeover.then(now_s)
        # Their places are free: whatever waited behind them goes on.
        return effects + self._start_queued(now_s)

    @property
    def next_deadline_s(self) -> float:
        """When the next silent pull asks again, or a refill that stood back has its turn."""
        retry_s = min((pull.retry_s for pull in self._pulls.values()), default=math.inf)
        retry_s = min(retry_s, self._more_at_s)
        # With every place taken a refill waits for one, not for an instant.
        return min(retry_s, self._refills[0][0]) if self._refills and not self._is_full() else retry_s

    def _is_full(self) -> bool:
        return self._count(Purpose.REFILL) >= REFILLS_MAX or len(self._pulls) >= PULLS_MAX

    def advance(self, now_s: float) -> list[Effect]:
        """Ask again where no answer came; an exchange of anti-entropy is given up instead."""
        self._starts_left = STARTS_MAX
        effects: list[Effect] = []
        for pull in [pull for pull in self._pulls.values() if pull.retry_s <= now_s]:
            if pull.token not in self._pulls:
                continue  # its takeover was concluded by another one's silence
            pull.silent_count += 1
            if pull.purpose is Purpose.SYNC:
                effects += self._end(pull, now_s)
            elif pull.silent_count % self._silent_max(pull) == 0 and self._may_stand_back(pull):
                # A source that is down must not keep others from being asked: it waits its turn again.
                takeover = self._takeovers.get(pull.unit)
                is_copy = takeover is not None and pull.purpose is Purpose.BULK
                source = takeover.instead_of(pull.source) if takeover is not None and is_copy else pull.source
                asked = pull.unit, source, pull.purpose, pull.epoch
                if pull.purpose is Purpose.FENCED:
                    self._parked[asked] = pull
                self._wait_turn(asked, now_s)
                effects += self._end(pull, now_s)
            else:
                effects += self._call_in(pull, now_s)
                if pull.token in self._pulls:
                    effects += self._ask(pull, now_s)
        return effects + self._start_queued(now_s)

    def _silent_max(self, pull: Pull) -> int:
        """Return after how many silences a pull makes room."""
        if pull.purpose is Purpose.REFILL:
            return REFILL_SILENT_MAX
        if pull.purpose is Purpose.BULK and pull.leaves is not None and self._is_usable(pull.source):
            return COPY_SILENT_MAX
        return SILENT_MAX

    def _may_stand_back(self, pull: Pull) -> bool:
        """Return whether others wait for the place of a silent pull, or another source for its copy."""
        takeover = self._takeovers.get(pull.unit)
        has_others = pull.purpose is Purpose.BULK and takeover is not None and bool(takeover.reserve)
        return has_others or bool(self._queue or self._copies or self._refills)
