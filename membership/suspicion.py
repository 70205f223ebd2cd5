"""How long a suspicion stands before the member is declared dead.

Sans-I/O. The more members suspect it independently, and the better their evidence, the sooner; the accused refutes by
raising its incarnation. Silence may be a pause, so it has the longest floor. A watcher whose beats and nudges went
unanswered has seen more (GONE); but a bad path of its own looks the same, so GONE shortens a suspicion only if all of
the member's watchers say it. A lost lifeline with a refused port, seen by two, is a crash: a paused process keeps
both, so the floor is only the time that a refutation takes.

Whoever vouches for the accused voids what is stronger than silence for `VETO_S`. If what it saw is that the accused's
kernel still acknowledges, it voids what was seen before, and death by silence is held off: a process that stands still
is stalled, up to a limit of its own. A crash seen later ends that at once.
Source: Dadgar et al., "Lifeguard", arXiv:1707.00788, LHA-Suspicion; evidence and vetoes are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from frys_node.base.types import NodeId
from membership.messages import ACCUSERS_NEEDED, Accusation, Evidence

VETO_S = 5.0
"""For how long a voucher counts: evidence of a crash is void, and a stalled member is not dead."""


ASK_AFTER = 4
ASK_EVERY = 8
"""Whoever has heard no refutation by a quarter of the shortest suspicion asks the accused, and again each eighth."""


def suspicion_timeout_s(confirmations: int, expected: int, floor_s: float, ceiling_s: float) -> float:
    """Return how long a suspicion may stand.

    Falls from `ceiling_s` to `floor_s` as log(confirmations + 1) / log(expected + 1).

    Args:
        confirmations: Distinct members that suspect it too, >= 0.
        expected: Confirmations at which the floor is reached; 0 means that nobody else could confirm.
        floor_s: Shortest, in seconds.
        ceiling_s: Longest, in seconds, >= floor_s.
    """
    if confirmations >= expected:
        return floor_s
    share = math.log(confirmations + 1) / math.log(expected + 1)
    return max(floor_s, ceiling_s - (ceiling_s - floor_s) * share)


def suspicion_floor_s(multiplier: float, live_count: int, probe_interval_s: float) -> float:
    """Return the shortest suspicion in a cluster of `live_count` members (this node included)."""
    return multiplier * max(1.0, math.log10(max(1, live_count))) * probe_interval_s


class Floors(NamedTuple):
    """The shortest suspicions at one moment, by evidence."""

    silence_s: float
    gone_s: float
    crash_s: float
    ceiling_factor: float
    """Longest suspicion = this * the shortest."""
    stall_max_s: float
    """For how long a member is held alive by its kernel alone."""


class Suspicion:
    """One running suspicion of one (boot, incarnation)."""

    __slots__ = (
        "_accusers",
        "_crash_s",
        "_floors",
        "_held_until_s",
        "_verdicts",
        "_veto_until_s",
        "ask_s",
        "boot",
        "incarnation",
        "questions",
        "since_s",
    )

    def __init__(
        self,
        boot: int,
        incarnation: int,
        accuser: NodeId,
        since_s: float,
        floors: Floors,
        evidence: Evidence = Evidence.SILENCE,
    ) -> None:
        self.boot = boot
        self.incarnation = incarnation
        self.since_s = since_s
        self._floors = floors
        self._accusers: dict[NodeId, Evidence] = {accuser: evidence}
        self._verdicts: dict[NodeId, Accusation] = {}
        self._crash_s = math.inf
        """When enough observers agreed on a crash."""
        self._veto_until_s = -math.inf
        self._held_until_s = -math.inf
        self.ask_s = since_s + floors.silence_s / ASK_AFTER
        """When the accused is asked itself, by this node."""
        self.questions = 0
        """How often it has been asked."""

    @property
    def accusers(self) -> tuple[NodeId, ...]:
        """Who suspects, the first one first."""
        return tuple(self._accusers)

    @property
    def votes(self) -> tuple[tuple[NodeId, Evidence], ...]:
        """Who suspects and on what evidence, the first one first."""
        return tuple(self._accusers.items())

    @property
    def verdicts(self) -> tuple[Accusation, ...]:
        """Who has buried the member already, as this node has heard."""
        return tuple(self._verdicts.values())

    def judge(self, accusation: Accusation) -> bool:
        """Take another member's verdict; True if it is news."""
        if not accusation.is_verdict or accusation.accuser in self._verdicts or len(self._verdicts) >= ACCUSERS_NEEDED:
            return False
        self._verdicts[accusation.accuser] = accusation
        return True

    def counts(self, accusation: Accusation) -> bool:
        """Return True if the accuser has said so already, on that evidence or better."""
        known = self._accusers.get(accusation.accuser)
        is_judged = not accusation.is_verdict or accusation.accuser in self._verdicts
        return known is not None and accusation.evidence <= known and is_judged

    @property
    def veto_until_s(self) -> float:
        """Until then evidence of a crash counts as silence; minus infinity without a veto."""
        return self._veto_until_s

    @property
    def held_until_s(self) -> float:
        """Until then the member does not die of silence; minus infinity if nothing holds that off."""
        return self._held_until_s

    @property
    def evidence(self) -> Evidence:
        """The strongest evidence that stands."""
        return max(self._accusers.values())

    @property
    def is_crash(self) -> bool:
        """True while the suspicion runs on the short clock of a crash."""
        return self._crash_s < math.inf

    def deadline_s(self, expected: int, watchers: Collection[NodeId], patience: int = 1) -> float:
        """When the member is declared dead unless it refutes.

        Args:
            expected: How many more members could confirm now: when several fail at once, those that are suspect
                themselves are not waited for.
            watchers: Whoever watches the member and lives: all of them must find it gone for the shorter floor.
            patience: Stretches what is not a crash: a node that is in trouble itself hears refutations late.
        """
        floors, confirmations = self._floors, len(self._accusers) - 1
        ceiling_s = floors.silence_s * floors.ceiling_factor
        timeout_s = suspicion_timeout_s(confirmations, expected, floors.silence_s, ceiling_s)
        if confirmations >= expected and self._is_gone_to(watchers):
            timeout_s = min(timeout_s, floors.gone_s)
        return min(max(self.since_s + patience * timeout_s, self._held_until_s), self._crash_s + floors.crash_s)

    def _is_gone_to(self, watchers: Collection[NodeId]) -> bool:
        """True if there are watchers and each of them found it gone, or better."""
        silence = Evidence.SILENCE
        return bool(watchers) and all(self._accusers.get(watcher, silence) > silence for watcher in watchers)

    def confirm(
        self,
        accuser: NodeId,
        expected: int,
        evidence: Evidence = Evidence.SILENCE,
        now_s: float = math.inf,
    ) -> bool:
        """Count one more accuser, or better evidence of a known one; True if it is worth passing on."""
        if not accuser:
            return False
        if now_s < self._veto_until_s:
            evidence = Evidence.SILENCE
        known = self._accusers.get(accuser)
        if known is None and evidence is Evidence.SILENCE and len(self._accusers) > max(expected, ACCUSERS_NEEDED - 1):
            return False
        if known is not None and evidence <= known:
            return False
        self._accusers[accuser] = evidence
        return True

    def weigh(self, observers: int, now_s: float, crash_s: float) -> bool:
        """Shorten the clock to `crash_s` from now on if so many observers saw a crash; True if that is new."""
        if self.is_crash or sum(e is Evidence.CRASH for e in self._accusers.values()) < observers:
            return False
        self._crash_s = now_s
        self._floors = self._floors._replace(crash_s=crash_s)
        return True

    def veto(self, until_s: float) -> None:
        """Put the suspicion back to silence: what was seen of a crash is void, and more of it is until then.

        With a time that has passed only what was seen before is void.
        """
        self._veto_until_s = max(self._veto_until_s, until_s)
        self._crash_s = math.inf
        self._accusers = dict.fromkeys(self._accusers, Evidence.SILENCE)

    def hold(self, until_s: float) -> None:
        """Hold death by silence off until then, within the limit for a stalled member."""
        limit_s = self.since_s + self._floors.stall_max_s
        self._held_until_s = max(self._held_until_s, min(until_s, limit_s))

    def asked(self, now_s: float) -> None:
        """Note that the accused has been asked."""
        self.questions += 1
        self.put_off(now_s)

    def put_off(self, now_s: float) -> None:
        """Ask no sooner than after another pause."""
        self.ask_s = now_s + self._floors.silence_s / ASK_EVERY

    def shift(self, gap_s: float) -> None:
        """Move everything by a time during which this node itself stood still."""
        self.ask_s += gap_s
        self.since_s += gap_s
        self._crash_s += gap_s
        self._veto_until_s += gap_s
        self._held_until_s += gap_s
