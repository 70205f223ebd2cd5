"""The replay window against a set of everything that was ever taken, in any order of packets."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from frys_node.secure.packet import COUNTER_MAX
from frys_node.secure.replay import WINDOW_COUNTERS, ReplayWindow

EDGES = (0, 1, 2, WINDOW_COUNTERS - 2, WINDOW_COUNTERS - 1, WINDOW_COUNTERS, WINDOW_COUNTERS + 1, 3 * WINDOW_COUNTERS)


class Window(RuleBasedStateMachine):
    """Packets arrive ahead of the highest, behind it, far away, and again."""

    def __init__(self) -> None:
        super().__init__()
        self.window = ReplayWindow()
        self.taken: set[int] = set()
        self.asked = 0

    @property
    def top(self) -> int:
        """The highest counter that was taken."""
        return max(self.taken, default=-1)

    def _arrives(self, counter: int) -> None:
        counter = min(max(counter, 0), COUNTER_MAX - 1)
        wanted = counter not in self.taken and counter > self.top - WINDOW_COUNTERS
        assert self.window.is_new(counter) is wanted, counter
        self.asked = counter
        if wanted:
            self.window.add(counter)
            self.taken.add(counter)
            assert not self.window.is_new(counter)

    @rule(step=st.integers(1, 20))
    def next(self, step: int) -> None:
        """A little further."""
        self._arrives(self.top + step)

    @rule(edge=st.sampled_from(EDGES), by=st.integers(-1, 1))
    def far_ahead(self, edge: int, by: int) -> None:
        """About as far as the window is wide, or further."""
        self._arrives(self.top + edge + by)

    @rule(edge=st.sampled_from(EDGES), by=st.integers(-1, 1))
    def behind(self, edge: int, by: int) -> None:
        """Late, at the window's edges."""
        self._arrives(self.top - edge + by)

    @rule(behind=st.integers(0, WINDOW_COUNTERS))
    def late(self, behind: int) -> None:
        """Late, anywhere in the window."""
        self._arrives(self.top - behind)

    @rule(counter=st.one_of(st.just(COUNTER_MAX - 1), st.integers(0, COUNTER_MAX - 1)))
    def anywhere(self, counter: int) -> None:
        """Any counter at all."""
        self._arrives(counter)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        """One that was taken: never a second time."""
        self._arrives(data.draw(st.sampled_from(sorted(self.taken))))

    @invariant()
    def agrees_around_the_edges(self) -> None:
        """Asking changes nothing, and every answer about the neighbourhood is that of the set."""
        for counter in {self.top, self.top + 1, self.top - WINDOW_COUNTERS, self.top - WINDOW_COUNTERS + 1, self.asked}:
            if counter >= 0:
                wanted = counter not in self.taken and counter > self.top - WINDOW_COUNTERS
                assert self.window.is_new(counter) is wanted


Window.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestWindow = Window.TestCase
