"""Settings that must be the same at all members: told with the first state exchange of two, and compared.

Sans-I/O. Who watches whom follows from `watchers`, and how long a silence lasts before it means something from the
others: members that differ in them judge one another by different rules, which works and surprises. Nobody is refused
for it, since a change of settings reaches one node after the other; whoever meets a difference tells its operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from frys_node.base.types import NodeId
from membership.config import MembershipConfig

MUST_AGREE = (
    "watchers",
    "watch_interval_s",
    "probe_interval_s",
    "suspicion_multiplier",
    "gone_multiplier",
    "crash_evidence",
    "stall_max_s",
)
SETTINGS_CHARS_MAX = 512
VALUE_CHARS_MAX = 32
MEMBERS_MAX = 1_024
"""Members whose differences are remembered."""


class Difference(NamedTuple):
    """One setting of one member."""

    setting: str
    there: str
    here: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.there} there and {self.here} here"


class Agreement:
    """What one node's settings are, and who has told of others."""

    __slots__ = ("_differing", "_own", "text")

    def __init__(self, config: MembershipConfig) -> None:
        self._own = {name: _plain(getattr(config, name)) for name in MUST_AGREE}
        self._differing: dict[NodeId, tuple[Difference, ...]] = {}
        self.text = " ".join(f"{name}={value}" for name, value in self._own.items())
        """What others are told."""

    def take(self, node: NodeId, text: str) -> tuple[Difference, ...]:
        """Take what a member tells of its settings; returns the differences if they are not those known already.

        What this node does not know is passed over, and so is what the member does not tell: it may be of another
        version.
        """
        if not text:
            return ()
        told = dict(part.partition("=")[::2] for part in text.split(" "))
        found = tuple(
            Difference(name, told[name][:VALUE_CHARS_MAX], here)
            for name, here in self._own.items()
            if name in told and told[name] != here
        )
        known = self._differing.pop(node, ())
        if found:
            while len(self._differing) >= MEMBERS_MAX:
                del self._differing[next(iter(self._differing))]
            self._differing[node] = found
        return found if found != known else ()

    def differing(self, is_live: Callable[[NodeId], bool]) -> dict[NodeId, tuple[Difference, ...]]:
        """Return who differs in what, of the members that are live; the others are forgotten."""
        self._differing = {node: found for node, found in self._differing.items() if is_live(node)}
        return dict(self._differing)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
