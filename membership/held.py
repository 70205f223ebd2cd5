"""Claims that wait until it is known whose voice is on them.

Sans-I/O. A newcomer knows nobody's voice but those that it was told of, and nobody knows the newcomer's. Whoever passes
a claim on has verified it, so it can say whose voices those are: it is asked over the channel, and again a few times.
Mostly a newcomer's voice comes with its first claim, where it is small enough (`rumours.Introduction`).
What waits is bounded in time and number, for anybody can make up claims with voices that nobody has.
"""

from __future__ import annotations

import math

from frys_node.base.types import NodeId
from membership.effects import AskVoices, Tallies
from membership.messages import Update

HELD_S = 10.0
"""For so long a voice is asked for, and what needs it is kept, counted from the last claim that did."""

ASK_S = 0.5
"""Pause before the same voice is asked for again."""

VOICES_MAX = 4_096
"""Voices asked for at once; further ones are not, and what needs them is dropped and counted."""

CLAIMS_MAX = 8_192
"""Claims that wait, at most one of each teller about each member; further ones are heard again or never."""

SOURCES_MAX = 4
"""Tellers of whom a voice is asked for in turn."""

ASKED_MAX = 512
"""Voices that one question names."""


class _Wanted:
    """One voice that is not known."""

    __slots__ = ("ask_s", "asked_s", "claims", "sources", "until_s")

    def __init__(self, source: NodeId, ask_s: float) -> None:
        self.sources = {source: None}
        """Who spoke of it: asked in turn, so that a liar among them does not keep it from the others."""
        self.ask_s = ask_s
        self.asked_s = -math.inf
        self.until_s = math.inf
        self.claims: dict[tuple[NodeId, NodeId], Update] = {}
        """By member and who told it."""


class Held:
    """What one node cannot judge yet."""

    __slots__ = ("_claims", "_tallies", "_wanted", "next_deadline_s")

    def __init__(self, tallies: Tallies) -> None:
        self._tallies = tallies
        self._claims = 0
        self._wanted: dict[NodeId, _Wanted] = {}
        self.next_deadline_s = math.inf
        """When `flush` has something to do."""

    def __len__(self) -> int:
        return len(self._wanted)

    def __contains__(self, voice: NodeId) -> bool:
        return voice in self._wanted

    def want(self, voice: NodeId, source: NodeId, now_s: float, claim: Update | None = None) -> None:
        """Ask `source` for a voice at the end of this turn, and keep the claim that needs it."""
        wanted = self._wanted.get(voice)
        if wanted is None:
            if len(self._wanted) >= VOICES_MAX:
                self._tallies.add(self._tallies.dropped, "held_full")
                return
            wanted = self._wanted[voice] = _Wanted(source, now_s)
        if len(wanted.sources) < SOURCES_MAX:
            wanted.sources[source] = None
        wanted.until_s = now_s + HELD_S
        key = None if claim is None else (claim.node, source)
        if claim is not None and key is not None and (key in wanted.claims or self._claims < CLAIMS_MAX):
            self._claims += key not in wanted.claims
            wanted.claims[key] = claim
        wanted.ask_s = min(wanted.ask_s, max(now_s, wanted.asked_s + ASK_S))
        self.next_deadline_s = min(self.next_deadline_s, max(now_s, wanted.ask_s))

    def release(self, voice: NodeId) -> list[tuple[Update, NodeId]]:
        """Return what waited for a voice that is known by now, and who told it."""
        wanted = self._wanted.pop(voice, None)
        if wanted is None:
            return []
        self._claims -= len(wanted.claims)
        return [(claim, source) for (_, source), claim in wanted.claims.items()]

    def flush(self, now_s: float) -> list[AskVoices]:
        """Return the questions that are due, and drop what has waited for too long."""
        if self.next_deadline_s > now_s:
            return []
        asked: dict[NodeId, list[NodeId]] = {}
        for voice, wanted in [*self._wanted.items()]:
            if wanted.until_s <= now_s:
                self.release(voice)
                self._tallies.add(self._tallies.dropped, "voice_unknown")
            elif wanted.ask_s <= now_s:
                wanted.asked_s, wanted.ask_s = now_s, now_s + ASK_S
                source = next(iter(wanted.sources))
                # The next question goes to the next one.
                wanted.sources[source] = wanted.sources.pop(source)
                asked.setdefault(source, []).append(voice)
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
