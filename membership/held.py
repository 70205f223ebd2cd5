"""Claims that wait until it is known whose voice is on them.

Sans-I/O. A newcomer knows nobody's voice but those that it was told of, and nobody knows the newcomer's. Whoever passes
a claim on has verified it, so it can say whose voices those are: it is asked over the channel, and again a few times.
Before that gossip has its chance, which spreads a newcomer's voice where it is small enough (`rumours.Introduction`).
What waits is bounded in time and number, for anybody can make up claims with voices that nobody has.
"""

from __future__ import annotations

import math

from frys_node.base.types import NodeId
from membership.effects import AskVoices, Tallies
from membership.messages import Update

HELD_S = 10.0
"""For so long a voice is asked for, and what needs it is kept, counted from the last claim that did."""

GOSSIP_S = 0.1
"""For so long a voice that a packet speaks with is waited for: an introduction mostly comes by the same way."""

ASK_S = 0.5
"""Pause before the same voice is asked for again."""

VOICES_MAX = 4_096
"""Voices asked for at once; further ones are not, and what needs them is dropped and counted."""

CLAIMS_MAX = 16
"""Claims that wait for one voice, at most one about each member; the oldest make room."""

ASKED_MAX = 512
"""Voices that one question names."""


class _Wanted:
    """One voice that is not known."""

    __slots__ = ("ask_s", "asked_s", "claims", "source", "until_s")

    def __init__(self, source: NodeId, ask_s: float) -> None:
        self.source = source
        """Who spoke of it last."""
        self.ask_s = ask_s
        self.asked_s = -math.inf
        self.until_s = math.inf
        self.claims: dict[NodeId, tuple[Update, NodeId]] = {}
        """By member: the claim, and who told it."""


class Held:
    """What one node cannot judge yet."""

    __slots__ = ("_tallies", "_wanted", "next_deadline_s")

    def __init__(self, tallies: Tallies) -> None:
        self._tallies = tallies
        self._wanted: dict[NodeId, _Wanted] = {}
        self.next_deadline_s = math.inf
        """When `flush` has something to do."""

    def __len__(self) -> int:
        return len(self._wanted)

    def want(
        self, voice: NodeId, source: NodeId, now_s: float, claim: Update | None = None, *, after_s: float = GOSSIP_S
    ) -> None:
        """Keep the claim that needs a voice, and ask `source` for it after a while unless gossip brings it."""
        wanted = self._wanted.get(voice)
        if wanted is None:
            if len(self._wanted) >= VOICES_MAX:
                self._tallies.add(self._tallies.dropped, "held_full")
                return
            wanted = self._wanted[voice] = _Wanted(source, now_s + after_s)
        wanted.source = source
        wanted.until_s = now_s + HELD_S
        if claim is not None:
            wanted.claims.pop(claim.node, None)
            wanted.claims[claim.node] = (claim, source)
            if len(wanted.claims) > CLAIMS_MAX:
                del wanted.claims[next(iter(wanted.claims))]
        wanted.ask_s = min(wanted.ask_s, max(now_s + after_s, wanted.asked_s + ASK_S))
        self.next_deadline_s = min(self.next_deadline_s, max(now_s, wanted.ask_s))

    def release(self, voice: NodeId) -> list[tuple[Update, NodeId]]:
        """Return what waited for a voice that is known by now, and who told it."""
        wanted = self._wanted.pop(voice, None)
        return [] if wanted is None else list(wanted.claims.values())

    def flush(self, now_s: float) -> list[AskVoices]:
        """Return the questions that are due, and drop what has waited for too long."""
        if self.next_deadline_s > now_s:
            return []
        asked: dict[NodeId, list[NodeId]] = {}
        for voice, wanted in [*self._wanted.items()]:
            if wanted.until_s <= now_s:
                del self._wanted[voice]
                self._tallies.add(self._tallies.dropped, "voice_unknown")
            elif wanted.ask_s <= now_s:
                wanted.asked_s, wanted.ask_s = now_s, now_s + ASK_S
                asked.setdefault(wanted.source, []).append(voice)
        self.next_deadline_s = min((min(w.ask_s, w.until_s) for w in self._wanted.values()), default=math.inf)
        return [
            AskVoices(source, tuple(voices[at : at + ASKED_MAX]))
            for source, voices in asked.items()
            for at in range(0, len(voices), ASKED_MAX)
        ]

    def shift(self, gap_s: float) -> None:
        """Move everything by a time during which this node itself stood still."""
        for wanted in self._wanted.values():
            wanted.ask_s += gap_s
            wanted.asked_s += gap_s
            wanted.until_s += gap_s
        self.next_deadline_s += gap_s
