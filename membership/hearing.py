"""How a claim that was heard is settled: believed as far as it is proven, refuted if it is about this node.

Sans-I/O. Most claims that arrive say nothing new, and are passed over before any signature is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from frys_node.base.types import NodeId
from membership.effects import Superseded
from membership.held import GOSSIP_S, Held
from membership.member import Member, is_acceptable, supersedes
from membership.messages import Accusation, Standing, Update, raised
from membership.rumours import INTRODUCTION_BYTES_MAX, Introduction
from membership.scrutiny import FORGED, Scrutiny
from membership.story import Entry
from membership.voices import accusations_in, life_of

if TYPE_CHECKING:
    from membership.claims import Claims


class Hearing:
    """Settles claims for one node."""

    __slots__ = ("_claims", "_scrutiny", "_superseded_by", "held")

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        accusers = claims.config.accusers
        self._scrutiny = Scrutiny(claims.node, claims.table, claims.suspicions, claims.signing, accusers=accusers)
        self._superseded_by = claims.boot
        self.held = Held(claims.tallies)
        """Claims with voices that are not known yet."""

    def take(self, update: Update, source: NodeId, now_s: float, *, is_exchange: bool = False) -> bool:
        """Settle one claim; True if it brought a dead or departed member back.

        In an exchange of tables (`is_exchange`) nothing follows: voices that are not known are asked for at once.
        """
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
            self.held.want(finding.unknown, source, now_s, update, after_s=0.0 if is_exchange else GOSSIP_S)
        if finding.update is None:
            if finding.unknown is None:
                claims.drop(FORGED)
            return False
        return self._settle(finding.update, member, finding.accusations, now_s)

    def _settle(self, update: Update, member: Member | None, accusations: tuple[Accusation, ...], now_s: float) -> bool:
        """Take what is proven of a claim."""
        claims = self._claims
        was_live = member is None or member.is_live
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
        held = member.update
        if supersedes(update, held):
            return True
        if update.standing < Standing.SUSPECT or member.standing is not Standing.SUSPECT:
            return False
        suspicion = self._claims.suspicions.get(update.node)
        if suspicion is None or life_of(update) != life_of(held):
            return False
        return any(not suspicion.counts(one.accuser, one.evidence) for one in accusations_in(update))

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
        """Take a voice that gossip brings; one that is known is an echo."""
        if not self._claims.signing.knows(introduction.node):
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
        claims.tallies.add(claims.tallies.events, "refutation")
        if is_beyond or any(verdicts):
            # What nobody has signed says nothing about how this node does.
            claims.health.worsen()
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
        voice = claims.signing.learn(statement)
        if voice is None:
            claims.drop("statement")
            return False
        if len(statement) <= INTRODUCTION_BYTES_MAX and voice != claims.node:
            claims.rumours.queue.put(Introduction(voice, statement))
        returned = sum(self.take(update, source, now_s) for update, source in self.held.release(voice))
        return returned > 0
