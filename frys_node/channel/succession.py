"""The order of notes over a connection and those that take its place.

Sans-I/O. When a connection is replaced, both sides send notes on the new one at once, while the last ones on the old
one may still be under way. So notes of the new one are held until the other side has said on the old one that nothing
comes behind, or that has ended. Several replacements in a row make a chain.
"""

from __future__ import annotations

from collections.abc import Callable

from frys_node.channel.messages import Note


class Succession:
    """One connection's place in the chain."""

    __slots__ = ("_hand_over", "_held", "_on_release", "after", "before", "has_heard_last", "held_bytes", "is_over")

    def __init__(self, hand_over: Callable[[Note], None], on_release: Callable[[], None]) -> None:
        self._hand_over = hand_over
        self._on_release = on_release
        self.before: Succession | None = None
        """The connection whose notes come first, while there may be any."""
        self.after: Succession | None = None
        self._held: list[Note] = []
        self.has_heard_last = False
        """True once nothing comes behind."""
        self.held_bytes = 0
        """Bodies of notes that wait for their turn."""
        self.is_over = False
        """True once every note that comes on this connection has been handed over."""

    def follow(self, before: Succession) -> None:
        """Take the place of another connection: its notes come first."""
        if not before.is_over and before is not self:
            self.before, before.after = before, self

    def take(self, note: Note) -> None:
        """Hand a note over, now or in its turn."""
        if self.before is None:
            self._hand_over(note)
        else:
            self._held.append(note)
            self.held_bytes += len(note.body)

    def hear_last(self) -> None:
        """Note that nothing comes behind: the other side has said so, or the connection has ended.

        In the middle of a chain what is held here still waits for those before.
        """
        self.has_heard_last = True
        if self.before is None:
            self.end()

    @property
    def line_bytes(self) -> int:
        """Bodies of notes that wait for their turn on all connections of the chain."""
        total, before, after = self.held_bytes, self.before, self.after
        while before is not None:
            total, before = total + before.held_bytes, before.before
        while after is not None:
            total, after = total + after.held_bytes, after.after
        return total

    def end(self) -> None:
        """Let the next connection's notes pass: all that came on this one have been handed over, or never will be."""
        self.release()
        self.is_over = True
        after, self.after = self.after, None
        if after is not None:
            after.release()
            if after.has_heard_last:
                after.end()

    def release(self) -> None:
        """Hand over what was held: nothing is waited for any more on the connections before, whose notes go first."""
        before, self.before = self.before, None
        if before is not None and not before.is_over:
            if before.after is self:
                before.after = None
            before.release()
            if before.has_heard_last:
                before.end()
        held, self._held, self.held_bytes = self._held, [], 0
        for note in held:
            self._hand_over(note)
        self._on_release()
