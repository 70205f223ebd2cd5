"""Events, state, queries and repair by hand: windows, deltas, heads and limits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from membership_hands import signing, spoken

from frys_node.base.errors import NotFound, Overloaded, UsageError
from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.gossip import Outcome
from membership.allowance import Allowance
from membership.catchup import BATCH_BYTES_MAX, BATCHES, HEADS, Batch, CatchUp, Head, Heads
from membership.effects import Tallies
from membership.errors import GossipTooFast, GossipTooLarge
from membership.events import LAMPORT_MAX, RECENT_S, WINDOW, Events, Window
from membership.member import make_attributes
from membership.queries import ASKED_MAX, DIRECT_MAX, Asked, Direct, Ended, Queries, ReplyKind, Said, matches
from membership.rumours import RUMOURS, Query, QueryReply, Rumours, StateDelta, StateEntry, UserEvent
from membership.state import KEYS_MAX, STATE_BYTES_MAX, TOMBSTONE_S, TOMBSTONES_MAX, States

ME, B, C = NodeId("a"), NodeId("b"), NodeId("c")
ROOM = 1_300


class Side:
    """Events, state and repair of one node, without a machine around them."""

    def __init__(self, node: NodeId, boot: int = 1) -> None:
        self.tallies = Tallies()
        by = signing(node)
        self.node = node
        self.rumours = Rumours(ROOM, self.tallies, by)
        self.events = Events(node, boot, self.rumours, self.tallies)
        self.states = States(node, boot, self.rumours, ROOM, self.tallies, by)
        self.repair = CatchUp(self.events, self.states, self.rumours, lambda _: 1)

    def reads(self, node: NodeId) -> dict[str, bytes]:
        """What this side reads of a node."""
        state = self.states.by_node.get(node)
        return {} if state is None else {entry.key: entry.value for entry in state.live}

    def digest(self) -> int:
        """The digest as it is now."""
        self.repair.revision += 1
        return self.repair.digest(0)


def exchange(a: Side, b: Side, now_s: float = 1.0) -> None:
    """One exchange of heads, and the batches that follow from it, through the real bytes."""
    said = [HEADS.encode(side.repair.heads()) for side in (a, b)]
    for mine, theirs, heads in ((a, b, said[1]), (b, a, said[0])):
        while heads:
            batch = mine.repair.meet(HEADS.decode(heads), now_s)
            more = (
                None if batch is None else theirs.repair.take(BATCHES.decode(BATCHES.encode(batch)), mine.node, now_s)
            )
            heads = b"" if more is None else HEADS.encode(more)


def event(sequence: int, origin: NodeId = B, boot: int = 1) -> UserEvent:
    """Make an event."""
    return spoken(UserEvent(origin, boot, sequence, sequence, 0, "e"))


@given(st.lists(st.integers(1, 3 * WINDOW), max_size=80))
def test_a_window_takes_each_number_once(numbers: list[int]) -> None:
    """In any order and with any gaps: true at most once per number, and what is missing lies below the head."""
    window = Window(1, 0.0)
    taken = [number for number in numbers if window.take(number)]
    assert len(taken) == len(set(taken))
    assert window.head == max(numbers, default=0)
    assert all(window.head - WINDOW < number < window.head for number in window.missing)
    assert not window.missing & set(taken)


def test_what_another_node_knows_and_cannot_tell_is_given_up() -> None:
    """Adopting closes the holes that the other has filled, keeps those that it has too, and counts what is lost."""
    window = Window(1, 0.0)
    for number in (1, 2, 5, 9):
        window.take(number)
    assert window.missing == {3, 4, 6, 7, 8}
    assert window.adopt(11, frozenset({4, 10})) == 5
    assert (window.head, window.missing) == (11, {4, 10})
    assert window.adopt(3, frozenset()) == 0
    assert window.missing == {4, 10}


def test_an_event_is_delivered_once_and_never_of_an_earlier_boot() -> None:
    """A repeated event is known; a later boot starts anew and makes the earlier one void; clocks follow."""
    side = Side(ME)
    assert side.events.take(event(1), 0.0)
    assert not side.events.take(event(1), 0.0)
    assert side.events.take(event(1, boot=2), 0.0)
    assert not side.events.take(event(2), 0.0)
    assert side.tallies.rumours_dropped == {("known", "event"): 2}
    fired = side.events.fire("x", b"", 0.0, 5)
    assert (fired.lamport, fired.sequence, fired.origin) == (2, 1, ME)
    assert [e.origin for e in side.events.delivered] == [B, B, ME]


def test_forged_events_and_heads_do_no_lasting_harm() -> None:
    """A clock at its end leaves this node's own events readable; numbers that cannot be missing are passed over."""
    side = Side(ME)
    side.events.take(UserEvent(B, 1, 1 << 61, LAMPORT_MAX, 0, "e"), 0.0)
    fired = side.events.fire("x", b"", 0.0, 0)
    assert RUMOURS.decode(RUMOURS.encode(fired)) == fired
    side.events.adopt(C, 1, 10, frozenset({3, 99}), 0.0, True)
    assert side.events.windows[C].missing == {3}
    assert side.events.take(event(99, C), 0.0)
    assert not side.events.take(event(99, C), 0.0)


def test_origins_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit newcomers' events and state are refused and counted; those known go on."""
    monkeypatch.setattr("membership.events.ORIGINS_MAX", 1)
    monkeypatch.setattr("membership.state.ORIGINS_MAX", 2)
    side = Side(ME)
    assert side.events.take(event(1, B), 0.0)
    assert not side.events.take(event(1, C), 0.0)
    assert side.events.take(event(2, B), 0.0)
    assert side.states.take(spoken(StateDelta(B, 1, 0, 0, 1)), B, 0.0)
    assert not side.states.take(spoken(StateDelta(C, 1, 0, 0, 1)), B, 0.0)
    assert side.tallies.rumours_dropped == {("too_many", "event"): 1, ("too_many", "state"): 1}
    side.events.forget(B, RECENT_S)
    assert B in side.events.windows
    side.events.forget(B, RECENT_S + 1.0)
    side.states.forget(lambda node: False)
    assert (list(side.events.windows), list(side.states.by_node)) == ([], [ME])


def test_missed_events_are_repaired_and_old_ones_given_up() -> None:
    """An exchange fills the holes of a node that was there; what nobody can tell any more does not keep them apart."""
    a, b = Side(ME), Side(B)
    exchange(a, b)
    for number in range(1, 6):
        b.events.fire("e", b"", 1.0, 0)
        if number in (2, 5):
            a.events.take(event(number), 1.0)
    assert a.digest() != b.digest()
    exchange(a, b, 2.0)
    assert sorted(e.sequence for e in a.events.delivered) == [1, 2, 3, 4, 5]
    assert a.digest() == b.digest()
    b.events.fire("e", b"", 2.0, 0)
    exchange(a, b, 3.0 + RECENT_S)
    assert len(a.events.delivered) == 5
    assert a.digest() == b.digest()
    assert a.tallies.rumours_dropped["lost", "event"] == 1


def test_a_newcomer_gets_state_and_no_old_events() -> None:
    """It adopts the heads of the first peer without loss, and hears what comes after."""
    old, new = Side(B), Side(ME)
    old.events.fire("old", b"", 0.0, 0)
    old.states.put("k", b"v", 0.0)
    exchange(new, old)
    assert (new.events.delivered, new.reads(B)) == ([], {"k": b"v"})
    assert not new.tallies.rumours_dropped
    old.events.fire("new", b"", 1.0, 0)
    exchange(new, old)
    assert [e.name for e in new.events.delivered] == ["new"]
    assert new.digest() == old.digest() != 0


def test_a_large_difference_comes_in_several_batches() -> None:
    """Twenty full states are more than one batch holds; both sides end equal."""
    a, b = Side(ME), Side(B)
    rng = random.Random(1)
    for index in range(20):
        entries = tuple(StateEntry(f"k{n}", rng.randbytes(1_000), n + 1) for n in range(16))
        assert b.states.take(spoken(StateDelta(NodeId(f"n{index}"), 1, 0, 0, 16, entries)), B, 0.0)
    batch = b.repair.meet(a.repair.heads(), 0.0)
    assert batch is not None
    assert not batch.is_whole
    assert sum(map(len, batch.rumours)) <= BATCH_BYTES_MAX
    exchange(a, b)
    assert a.digest() == b.digest()
    assert len(a.states.by_node) == 21


ACTIONS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "delete", "gossip", "exchange"]), st.integers(0, 5)),
    max_size=60,
)


@given(ACTIONS, st.randoms(use_true_random=False))
def test_states_converge_whatever_is_lost(actions: list[tuple[str, str, int]], rng: random.Random) -> None:
    """Puts and deletes anywhere, gossip that is mostly lost, exchanges in between: in the end all read the truth."""
    sides = {name: Side(NodeId(name)) for name in "abc"}
    for name, action, number in actions:
        side = sides[name]
        other = sides[rng.choice([n for n in "abc" if n != name])]
        if action == "put":
            side.states.put(f"k{number}", bytes([number]) * rng.choice((1, 900)), 0.0)
        elif action == "delete" and f"k{number}" in side.reads(NodeId(name)):
            side.states.delete(f"k{number}", 0.0)
        elif action == "gossip":
            for data in side.rumours.queue.take(ROOM + 10, 4, 9):
                rumour = RUMOURS.decode(data)
                assert isinstance(rumour, StateDelta)
                other.states.take(rumour, B, 0.0)
        elif action == "exchange":
            exchange(side, other)
    for _ in range(2):
        exchange(sides["a"], sides["b"])
        exchange(sides["b"], sides["c"])
    for owner in "abc":
        assert all(side.reads(NodeId(owner)) == sides[owner].reads(NodeId(owner)) for side in sides.values())
    assert len({side.digest() for side in sides.values()}) == 1


def test_tombstones_are_bounded_and_who_is_behind_gets_everything() -> None:
    """The oldest deletions are dropped when there are too many or an hour is over; a node from before catches up."""
    owner, reader = Side(B), Side(ME)
    owner.states.put("stays", b"1", 0.0)
    now_s = 0.0
    for index in range(TOMBSTONES_MAX + 10):
        owner.states.put(f"k{index}", b"v", now_s)
        if index == 3:
            exchange(owner, reader)
            assert "k3" in reader.reads(B)
        owner.states.delete(f"k{index}", now_s)
        now_s += 1.0
    state = owner.states.by_node[B]
    assert len(state.entries) == TOMBSTONES_MAX + 1
    assert state.floor > 0
    exchange(owner, reader)
    assert reader.reads(B) == {"stays": b"1"}
    owner.states.put("stays", b"2", now_s + TOMBSTONE_S)
    assert len(state.entries) == 1
    exchange(owner, reader)
    assert reader.reads(B) == {"stays": b"2"}


def test_a_fresh_delta_fits_and_heals_what_was_missed() -> None:
    """As many of the latest changes as the packet holds, so that one lost packet is mended by the next."""
    owner, reader = Side(B), Side(ME)
    for index in range(5):
        owner.states.put(f"k{index}", bytes(380), 0.0)
    (data,) = owner.rumours.queue.take(ROOM + 10, 1, 9)
    delta = RUMOURS.decode(data)
    assert isinstance(delta, StateDelta)
    assert [entry.key for entry in delta.entries] == ["k2", "k3", "k4"]
    assert len(data) <= ROOM
    assert not reader.states.take(delta, B, 0.0)
    assert reader.tallies.rumours_dropped == {("gap", "state"): 1}
    assert reader.states.take(owner.states.by_node[B].delta(B, 0), B, 0.0)
    owner.states.put("k5", b"", 0.0)
    assert reader.states.take(owner.states.by_node[B].fresh(B, ROOM), B, 0.0)
    assert len(reader.reads(B)) == 6


@pytest.mark.parametrize(
    "delta",
    [
        StateDelta(B, 1, 0, 0, 1, (StateEntry("k", b"", 2),)),
        StateDelta(B, 1, 0, 0, 3, (StateEntry("k", b"", 2), StateEntry("l", b"", 1))),
        StateDelta(B, 1, 0, 0, 3, (StateEntry("k", b"", 1), StateEntry("k", b"", 2))),
        StateDelta(B, 1, 0, 9, 3),
        StateDelta(B, 1, 0, 0, 500, tuple(StateEntry(f"k{n}", b"", n + 1) for n in range(200))),
        StateDelta(B, 1, 0, 0, 500, tuple(StateEntry(f"k{n}", bytes(1_024), n + 1) for n in range(30))),
    ],
)
def test_a_delta_that_no_honest_node_makes_is_refused(delta: StateDelta) -> None:
    """Versions beyond the delta's, out of order or doubled, a floor above it, too many keys, too many bytes."""
    side = Side(ME)
    assert not side.states.take(delta, B, 0.0)
    assert side.reads(B) == {}
    assert side.tallies.rumours_dropped == {("unacceptable", "state"): 1}


def test_state_of_oneself_is_nobody_elses_to_tell() -> None:
    """A delta about this very node changes nothing; a new boot of another replaces its old state."""
    side = Side(ME)
    assert not side.states.take(spoken(StateDelta(ME, 9, 0, 0, 5, (StateEntry("k", b"forged", 5),))), B, 0.0)
    assert side.reads(ME) == {}
    side.states.take(spoken(StateDelta(B, 1, 0, 0, 2, (StateEntry("k", b"1", 1), StateEntry("l", b"2", 2)))), B, 0.0)
    side.states.take(spoken(StateDelta(B, 2, 0, 0, 1, (StateEntry("k", b"3", 1),))), B, 0.0)
    assert side.reads(B) == {"k": b"3"}
    gone = [(entry.key, entry.is_deleted) for _, entry in side.states.changed]
    assert gone == [("k", False), ("l", False), ("k", False), ("l", True)]
    assert not side.states.take(spoken(StateDelta(B, 1, 0, 0, 9, ())), B, 0.0)


def fill(side: Side, count: int, size: int, now_s: float) -> None:
    """Set so many keys, over and over again if there are more than keys."""
    for index in range(count):
        side.states.put(f"k{index % KEYS_MAX}", bytes(size), now_s)


def test_state_over_a_limit_is_refused_and_the_former_value_stands() -> None:
    """Number of keys, bytes of all, and the pace of changes."""
    side = Side(ME)
    fill(side, KEYS_MAX, 100, 0.0)
    with pytest.raises(GossipTooLarge, match="64 keys"):
        side.states.put("more", b"", 0.0)
    with pytest.raises(GossipTooLarge, match=f"limit is {STATE_BYTES_MAX}"):
        fill(side, KEYS_MAX, 1_000, 100.0)
    with pytest.raises(GossipTooFast):
        fill(side, 200, 0, 100.0)
    with pytest.raises(NotFound):
        side.states.delete("nothing", 200.0)


def test_an_allowance_lets_a_burst_through_and_then_its_rate() -> None:
    """Ten at once, then one each half second; a clock that stands or goes back gives nothing."""
    allowance = Allowance("words", per_s=2.0, burst=10, now_s=0.0)
    for _ in range(10):
        allowance.spend(0.0)
    with pytest.raises(GossipTooFast, match="2 words per second"):
        allowance.spend(0.4)
    allowance.spend(0.5)
    with pytest.raises(GossipTooFast):
        allowance.spend(0.1)
    allowance.spend(1.0)
    assert allowance.wait_s(1.2) == pytest.approx(0.3)
    for now_s in (1e9 + 0.1, 1e9 + 0.7):
        # Whoever waits for as long as told finds one, whatever a float makes of the sum.
        while not allowance.wait_s(now_s):
            allowance.spend(now_s)
        assert allowance.wait_s(now_s + allowance.wait_s(now_s)) == 0.0


def test_heads_of_strangers_and_of_the_dead_do_not_count_in_the_digest() -> None:
    """Only what was said by live members in their present boot is compared."""
    side = Side(ME)
    side.repair = CatchUp(side.events, side.states, side.rumours, {B: 2}.get)
    side.events.take(event(1, C), 0.0)
    side.events.take(event(1, B, boot=1), 0.0)
    assert side.digest() == 0
    side.events.take(event(1, B, boot=2), 0.0)
    assert side.digest() != 0
    assert side.repair.heads() == Heads((Head(B, 2, 0, 1), Head(C, 1, 0, 1)), False)


# Queries.


def queries(node: NodeId = ME, **tags: str) -> Queries:
    """Make one node's queries."""
    attributes = make_attributes(f"name-{node}", Address("h", 1), tags=tags)
    return Queries(
        node, 1, Rumours(ROOM, Tallies(), signing(node)), lambda: attributes, {"ping": lambda payload, _: payload}
    )


def draft(asker: Queries, name: str = "ping", live_count: int = 2, **how: object) -> Query:
    """Make a question with a timeout of two seconds."""
    options = {"nodes": (), "tags": {}, "timeout_s": 2.0, "lamport": 1, "live_count": live_count} | how
    return asker.draft(name, b"x", **options)  # type: ignore[arg-type]


OTHERS = [(node, make_attributes(f"name-{node}", Address("h", 1))) for node in (B, C)]


def test_what_no_terminal_or_clock_can_take_is_refused_as_a_mistake() -> None:
    """Names that are not printable and waits out of bounds are no question of size: nothing is sent."""
    side = Side(ME)
    for name in ("x\x1b[2J", "a\nb", "\x9b", "\u202e"):
        with pytest.raises(UsageError, match="not printable"):
            side.events.fire(name, b"", 0.0, 0)
        with pytest.raises(UsageError, match="not printable"):
            side.states.put(name, b"", 0.0)
        with pytest.raises(UsageError, match="not printable"):
            draft(queries(), name)
    for timeout_s in (0.0, 601.0, 8.64e9):
        with pytest.raises(UsageError, match="a query waits"):
            draft(queries(), timeout_s=timeout_s)
    assert not side.events.delivered


def test_a_query_is_repeated_until_each_has_given_its_last_word() -> None:
    """Reminders go to the silent, seldom to those that have acked; repeated answers count once."""
    asker = queries()
    sequence = asker.ask(draft(asker), OTHERS, 0.0)
    asked = [what.node for what in asker.out if isinstance(what, Direct)]
    assert asked == [B, C]
    assert Said(sequence, ME, Outcome.ANSWERED, b"x", 0.0) in asker.out
    asker.out.clear()
    asker.take_reply(QueryReply(1, sequence, ReplyKind.ACK), B, 0.05)
    asker.advance(asker.next_deadline_s)
    assert [what.node for what in asker.out if isinstance(what, Direct)] == [C]
    asker.out.clear()
    for _ in range(2):
        asker.take_reply(QueryReply(1, sequence, ReplyKind.ANSWER, b"y"), C, 0.2)
    asker.take_reply(QueryReply(2, sequence, ReplyKind.ANSWER, b"y"), B, 0.2)
    asker.take_reply(QueryReply(1, sequence, 77, b"y"), B, 0.2)
    assert asker.out == [Said(sequence, C, Outcome.ANSWERED, b"y", 0.2)]
    asker.out.clear()
    while asker.next_deadline_s <= 2.0:
        asker.advance(asker.next_deadline_s)
    assert asker.out[-2:] == [Said(sequence, B, Outcome.ACKED, b"", 2.0), Ended(sequence)]
    asker.take_reply(QueryReply(1, sequence, ReplyKind.ANSWER, b"late"), B, 2.1)
    assert isinstance(asker.out[-1], Ended)


def test_a_member_answers_once_and_repeats_what_it_said() -> None:
    """The same question again gets the same reply; a handler runs once; after the timeout nothing is said."""
    asker, member = queries(B), queries(ME)
    member.handled.add("work")
    query = draft(asker, "work")
    for _ in range(2):
        member.take(query, B, 0.0)
    ack = Direct(B, member._rumours.signed(QueryReply(1, 1, ReplyKind.ACK)))
    assert member.out == [ack, Asked(query), ack]
    member.out.clear()
    member.answer(query, ReplyKind.ANSWER, b"done", 1.0)
    member.take(query, C, 1.0)
    member.take(query, B, 1.0)
    done = member._rumours.signed(QueryReply(1, 1, ReplyKind.ANSWER, b"done"))
    assert member.out == [Direct(B, done)] * 2
    member.out.clear()
    member.answer(query, ReplyKind.ANSWER, b"late", 2.0)
    assert member.out == []


def test_a_large_cluster_is_asked_by_gossip_and_reminded_in_turns() -> None:
    """Beyond the limit the question spreads; reminders take a bounded number at a time, everybody in turn."""
    asker, member = queries(), queries(B)
    many = [(NodeId(f"n{index:03}"), make_attributes("n", Address("h", 1))) for index in range(DIRECT_MAX + 36)]
    query = draft(asker, live_count=len(many))
    assert query.is_spread
    sequence = asker.ask(query, many, 0.0)
    assert not any(isinstance(what, Direct) for what in asker.out)
    asker.advance(0.1)
    first = [what.node for what in asker.out if isinstance(what, Direct)]
    asker.out.clear()
    asker.advance(0.2)
    second = [what.node for what in asker.out if isinstance(what, Direct)]
    assert len(first) == len(second) == DIRECT_MAX
    assert len({*first, *second}) == len(many)
    member.take(query, C, 0.0)
    asker.cancel(sequence)
    assert asker.next_deadline_s > 1e9


def test_queries_are_limited() -> None:
    """So many at once, so many a second; a query for nobody ends at once; filters are for all of name, id and tags."""
    asker = queries(role="db")
    asker.handled.add("work")
    for turn in range(ASKED_MAX):
        asker.ask(draft(asker, "work", timeout_s=500.0), OTHERS, float(turn))
    with pytest.raises(Overloaded):
        asker.ask(draft(asker, "work"), OTHERS, 99.0)
    nobody = queries()
    sequence = nobody.ask(draft(nobody, nodes=("nobody",)), OTHERS, 0.0)
    assert nobody.out == [Ended(sequence)]
    attributes = make_attributes("n", Address("h", 1), tags={"a": "1"})
    assert matches(draft(asker, nodes=("n",), tags={"a": "1"}), B, attributes)
    assert not matches(draft(asker, nodes=("n",), tags={"a": "2"}), B, attributes)
    assert not matches(draft(asker, nodes=("m",)), B, attributes)


def test_one_member_alone_does_not_silence_another_one() -> None:
    """A number of events beyond all that were heard is given up when two say so, or the member itself."""
    side = Side(ME)
    side.repair.is_settled = True
    lie = Batch((), Heads((Head(C, 1, 0, 1_000),), True))
    side.repair.take(lie, B, 1.0)
    assert side.events.take(event(1, C), 1.0)
    side.repair.take(lie, B, 2.0)
    assert side.events.take(event(2, C), 2.0)
    side.repair.take(Batch((), Heads((Head(C, 1, 0, 7),), True)), NodeId("d"), 3.0)
    assert side.events.windows[C].head == 7
    side.repair.take(Batch((), Heads((Head(C, 1, 0, 9),), True)), C, 4.0)
    assert side.events.windows[C].head == 9
