"""How a claim that was heard is settled: believed as far as it is proven, refuted if it is about this node.

Sans-I/O. Most claims that arrive say nothing new, and are passed over before any signature is looked at.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from frys_node.base.types import NodeId
from membership.effects import Superseded
from membership.held import Held
from membership.member import Member, is_acceptable, supersedes
from membership.messages import ACCUSERS_NEEDED, Accusation, Standing, Update, raised
from membership.rumours import INTRODUCTION_BYTES_MAX, Introduction
from membership.scrutiny import FORGED, Scrutiny, ended
from membership.story import Entry
from membership.voices import accusations_in, life_of

UNPROVEN = "unproven"
"""The reason of claims that nobody signed: ends that a newcomer took as it heard them, and passed on."""

if TYPE_CHECKING:
    from membership.claims import Claims


class Hearing:
    """Settles claims for one node."""

    __slots__ = ("_claims", "_refuted_s", "_scrutiny", "_superseded_by", "held")

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        accusers = claims.config.accusers
        self._scrutiny = Scrutiny(claims.node, claims.table, claims.suspicions, claims.signing, accusers=accusers)
        self._superseded_by = claims.boot
        self._refuted_s = -math.inf
        """When it last refuted what nobody had signed."""
        self.held = Held(claims.tallies)
        """Claims with voices that are not known yet."""

    def take(self, update: Update, source: NodeId, now_s: float) -> bool:
        """Settle one claim; True if it brought a dead or departed member back."""
        claims = self._claims
        member = claims.table.get(update.node)
        if member is not None and member.update == update and member.standing is not Standing.SUSPECT:
            # By far the most claims that arrive are known already. (One more voice against a suspect is news.)
            return False
        if not is_acceptable(update):
            claims.drop("unacceptable")
            return False
        if update.node == claims.node:
            self.answer(update, now_s)
            return False
        if member is None and not self._is_welcome(update):
            return False
        if member is not None and not self._is_news(update, member):
            return False
        finding = self._scrutiny.examine(update)
        if finding.unknown is not None:
            self.held.want(finding.unknown, source, now_s, update)
        if finding.update is None:
            if finding.unknown is None:
                claims.drop(FORGED if finding.is_forged else UNPROVEN)
            return False
        return self._settle(finding.update, member, finding.accusations, now_s)

    def _settle(self, update: Update, member: Member | None, accusations: tuple[Accusation, ...], now_s: float) -> bool:
        """Take what is proven of a claim."""
        claims = self._claims
        was_live = member is None or member.is_live
        is_dead = member is not None and update.standing is member.standing is Standing.DEAD
        if member is not None and is_dead and life_of(update) == life_of(member.update):
            found = {one.accuser: one for one in (*accusations_in(member.update), *accusations)}
            member.update = ended(member.update, tuple(found.values()))
            return False
        merge = claims.merge(update, now_s, is_heard=True)
        member = claims.table.get(update.node)
        if update.standing is Standing.SUSPECT and member is not None and member.standing is Standing.SUSPECT:
            if life_of(member.update) == life_of(update):
                for accusation in accusations:
                    claims.confirm(member, accusation, now_s, is_heard=True)
            return False
        if merge is None or was_live or not merge.member.is_live:
            return False
        claims.tallies.add(claims.tallies.events, "returned")
        return True

    def _is_news(self, update: Update, member: Member) -> bool:
        """True if a claim says more than what is held, or brings another accuser of a suspect."""
        held, suspicion = member.update, self._claims.suspicions.get(update.node)
        is_same_life = life_of(update) == life_of(held)
        if suspicion is not None and is_same_life and update.standing in (Standing.SUSPECT, Standing.DEAD):
            return any(not suspicion.counts(one) for one in accusations_in(update))
        if update.standing is held.standing is Standing.DEAD and is_same_life:
            # Others will want to see two verdicts.
            known = {one.accuser for one in accusations_in(held)}
            return len(known) < ACCUSERS_NEEDED and any(one.accuser not in known for one in accusations_in(update))
        return supersedes(update, held)

    def _is_welcome(self, update: Update) -> bool:
        """True if an unknown node may enter the table."""
        claims = self._claims
        if update.age_s >= claims.reap_after_s(update.standing):
            return False
        if len(claims.table) >= claims.config.members_max:
            claims.drop("table_full")
            return False
        return True

    def take_introduction(self, introduction: Introduction, _source: NodeId, now_s: float) -> None:
        """Take a voice that gossip brings, if a claim waits for it; one that is known is an echo."""
        if introduction.node in self.held:
            self.learn(introduction.statement, now_s)

    def answer(self, update: Update, now_s: float) -> None:
        """Answer a claim about this node: whatever is not what it says of itself is refuted, unless it is forged."""
        claims = self._claims
        own = claims.own
        is_beyond = (update.boot, update.incarnation) > (own.boot, own.incarnation)
        if is_beyond and not claims.signing.is_claimed(update):
            # Nobody but this node, or its twin, says what its life is: pretended, it would use up its incarnations.
            claims.drop(FORGED)
            return
        if update.boot > self._superseded_by:
            self._superseded_by = update.boot
            claims.out.append(Superseded(update.boot))
        if update.boot > claims.boot or claims.is_leaving:
            return
        if (update.boot, update.incarnation) < (own.boot, own.incarnation):
            if update.standing > Standing.ALIVE:
                # Refuted long ago, but whoever says it has not heard: two sides of a partition would stay apart.
                claims.queue.put(own)
            return
        if update.standing is Standing.ALIVE and update.incarnation == own.incarnation:
            return
        verdicts = self._verdicts(update)
        if not is_beyond and verdicts and all(verdict is False for verdict in verdicts):
            claims.drop(FORGED)
            return
        is_signed = is_beyond or any(verdicts)
        if not is_signed and now_s - self._refuted_s < claims.config.probe_interval_s:
            # Whoever took it as a newcomer hears the last refutation; more would let anybody use up incarnations.
            claims.drop(UNPROVEN)
            return
        claims.tallies.add(claims.tallies.events, "refutation")
        if is_signed:
            # What nobody has signed says nothing about how this node does.
            claims.health.worsen()
        else:
            self._refuted_s = now_s
        claims.tell(claims.node, Entry(now_s, "refutes", update.accuser, update.evidence, update.standing.name.lower()))
        claims.merge(raised(own, update.incarnation), now_s)

    def _verdicts(self, update: Update) -> list[bool | None]:
        """Return of each that is named whether it has said so; None of voices that are not known: to refute is safe."""
        signing, life = self._claims.signing, life_of(update)
        verdicts = [signing.is_accused(life, accusation) for accusation in accusations_in(update)]
        if update.standing is Standing.LEFT:
            verdicts.append(signing.is_released(update))
        return verdicts

    def learn(self, statement: bytes, now_s: float) -> bool:
        """Take whose voice somebody's is, and settle what waited for it; True if that brought somebody back."""
        claims = self._claims
        if claims.signing.has(statement):
            return False
        voice = claims.signing.learn(statement)
        if voice is None:
            claims.drop("statement")
            return False
        if len(statement) <= INTRODUCTION_BYTES_MAX and voice != claims.node:
            claims.rumours.queue.put(Introduction(voice, statement))
        returned = sum(self.take(update, source, now_s) for update, source in self.held.release(voice))
        return returned > 0
