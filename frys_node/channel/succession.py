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
        """True once the other side has said that nothing comes behind."""
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
        """Note that the other side has said that nothing comes behind."""
        self.has_heard_last = True
        if self.before is None:
            self.end()

    def end(self) -> None:
        """Note that nothing comes any more, and let the next connection's notes pass."""
        self.release()
        self.is_over = True
        after, self.after = self.after, None
        if after is not None:
            after.release()
            if after.has_heard_last:
                after.end()

    def release(self) -> None:
        """Hand over what was held: nothing comes on the connection before any more."""
        before, self.before = self.before, None
        if before is not None and before.after is self:
            before.after = None
        held, self._held, self.held_bytes = self._held, [], 0
        for note in held:
            self._hand_over(note)
        self._on_release()
