"""Notes keep their order when a connection takes another's place."""

from __future__ import annotations

import random

from frys_node.channel.messages import Note
from frys_node.channel.succession import Succession


class Line:
    """One connection as its receiver sees it."""

    def __init__(self, heard: list[bytes]) -> None:
        self.released = 0
        self.succession = Succession(lambda note: heard.append(note.body), self._release)

    def _release(self) -> None:
        self.released += 1

    def note(self, number: int) -> None:
        self.succession.take(Note("n", b"%d" % number))


def test_notes_of_the_new_connection_wait_for_the_last_word_on_the_old_one() -> None:
    """The new connection is the faster one, as the old one's queue is long."""
    heard: list[bytes] = []
    old, new = Line(heard), Line(heard)
    new.succession.follow(old.succession)
    new.note(3)
    old.note(1)
    old.note(2)
    assert new.succession.held_bytes == 1
    old.succession.hear_last()
    assert (heard, new.succession.held_bytes, new.released) == ([b"1", b"2", b"3"], 0, 1)
    new.note(4)
    assert heard[-1] == b"4"


def test_an_old_connection_that_breaks_lets_the_new_one_speak() -> None:
    """Its last notes are lost, as with any connection that breaks; nobody waits for them."""
    heard: list[bytes] = []
    old, new = Line(heard), Line(heard)
    new.succession.follow(old.succession)
    new.note(2)
    old.succession.end()
    new.succession.follow(old.succession)  # over: there is nothing to wait for
    new.note(3)
    assert heard == [b"2", b"3"]


def test_a_chain_of_replacements_keeps_the_order_however_they_end() -> None:
    """Several replacements follow before the first has ended; the receiver hears of their ends in any order."""
    for seed in range(200):
        rng = random.Random(seed)
        heard: list[bytes] = []
        lines = [Line(heard)]
        number = 0
        pending: list[list[int]] = [[]]
        for _ in range(4):
            lines.append(Line(heard))
            pending.append([])
            lines[-1].succession.follow(lines[-2].succession)
        for row in pending:
            for _ in range(rng.randint(0, 3)):
                row.append(number)
                number += 1
        # Each connection delivers in its own order and then says its last word; the five are interleaved at random.
        queues: list[list[int | None]] = [[*row, None] for row in pending]
        while any(queues):
            index = rng.choice([place for place, queue in enumerate(queues) if queue])
            item = queues[index].pop(0)
            if item is None:
                lines[index].succession.hear_last()
            else:
                lines[index].note(item)
        assert heard == [b"%d" % place for place in range(number)], seed
        assert all(line.succession.is_over for line in lines), seed


def test_the_end_of_a_connection_in_the_middle_overtakes_nothing() -> None:
    """It held notes of its own when it was lost; those of the oldest still come first, whoever ends when."""
    heard: list[bytes] = []
    old, middle, new = Line(heard), Line(heard), Line(heard)
    middle.succession.follow(old.succession)
    new.succession.follow(middle.succession)
    middle.note(2)
    new.note(3)
    assert [line.succession.line_bytes for line in (old, middle, new)] == [2, 2, 2]
    middle.succession.hear_last()  # as at its end
    old.note(1)
    assert heard == [b"1"]
    old.succession.hear_last()
    assert heard == [b"1", b"2", b"3"]
    assert middle.succession.is_over


def test_who_waits_no_longer_for_silent_ones_lets_the_notes_of_all_pass_in_their_order() -> None:
    """The newest connection gives the others up: what they hold comes first."""
    heard: list[bytes] = []
    old, middle, new = Line(heard), Line(heard), Line(heard)
    middle.succession.follow(old.succession)
    new.succession.follow(middle.succession)
    new.note(3)
    middle.note(2)
    middle.succession.hear_last()
    new.succession.release()
    assert heard == [b"2", b"3"]
    old.succession.end()
    assert heard == [b"2", b"3"]
