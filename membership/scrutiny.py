"""What of a claim that was heard is proven, and what may be believed.

Sans-I/O. What a member says of itself counts if its own signature is on it. That others accuse it counts for each live
member whose signature is. A death that is told is believed on two *verdicts*: a verdict is signed by a member whose own
suspicion has run out, so the accused had its time, and whoever lies alone can add one and not two. With fewer it is
taken for the suspicion that it proves, and with none for what it says of the member's life. The end of a member that is
not known here at all needs no proof: it counts as dead, is asked itself, and comes back with its own word.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from frys_node.base.types import NodeId
from membership.hearsay import attributed
from membership.member import Member
from membership.messages import ACCUSERS_NEEDED, Accusation, Evidence, Standing, Update
from membership.suspicions import Suspicions
from membership.table import Table
from membership.voices import Signing, accusations_in, is_own_leave, life_of

FORGED = "forged"
"""The reason of claims without the signature that they need."""


class Finding(NamedTuple):
    """What is left of a claim."""

    update: Update | None
    """What may be taken; None for nothing."""
    accusations: tuple[Accusation, ...] = ()
    """The proven ones, if the member is suspect or dead."""
    unknown: NodeId | None = None
    """Whose voice has to be known before the rest can be judged."""
    is_forged: bool = False
    """True if a signature is on it that is not of whom it names."""


NOTHING = Finding(None, is_forged=True)


class Scrutiny:
    """Judges for one node."""

    __slots__ = ("_accusers", "_node", "_signing", "_suspicions", "_table")

    def __init__(self, node: NodeId, table: Table, suspicions: Suspicions, signing: Signing, *, accusers: int) -> None:
        """`accusers` is how many must accuse a member before it is dead."""
        self._node = node
        self._accusers = accusers
        self._table = table
        self._suspicions = suspicions
        self._signing = signing

    def examine(self, update: Update) -> Finding:
        """Judge a claim about another member that says more than what is held about it."""
        update = attributed(update, self._node)
        member = self._table.get(update.node)
        is_known = member is not None and _life_and_attributes(member.update) == _life_and_attributes(update)
        if is_known and member is not None and not is_own_leave(update):
            # Said once, it needs no second proof, and whoever brings another one is not passed on.
            update = replace(update, proof=member.update.proof)
        else:
            verdict = self._signing.is_claimed(update)
            if verdict is None:
                return Finding(None, unknown=update.node)
            if not verdict:
                return NOTHING
        if update.standing is Standing.ALIVE or is_own_leave(update):
            return Finding(_bare(update, update.standing))
        if update.standing is Standing.LEFT:
            verdict = self._is_heir(update) or self._signing.is_released(update)
            if verdict is None:
                return Finding(None, unknown=update.accuser)
            if not verdict:
                return NOTHING
        return self._weigh(update, member, is_known=is_known)

    def _is_heir(self, update: Update) -> bool:
        """True if the accuser lives under the member's name: everybody may conclude that for itself."""
        heir = self._table.get(update.accuser)
        is_namesake = heir is not None and heir.update.attributes.name == update.attributes.name
        return is_namesake and heir is not None and heir.is_live and heir.node != update.node

    def _weigh(self, update: Update, member: Member | None, *, is_known: bool) -> Finding:
        """Judge who accuses the member, and who has buried it."""
        life = life_of(update)
        proven: list[Accusation] = []
        unknown: NodeId | None = None
        is_forged = False
        for accusation in accusations_in(update):
            if accusation.accuser != self._node and accusation.accuser not in self._table.live:
                # Whoever is no member, or not any more, has nothing to say.
                continue
            verdict = self._signing.is_accused(life, accusation)
            if verdict:
                proven.append(accusation)
            elif verdict is None and unknown is None:
                unknown = accusation.accuser
            is_forged = is_forged or verdict is False
        verdicts = {one.accuser: one for one in (*self._suspicions.verdicts(life), *proven) if one.is_verdict}
        is_buried = len(verdicts) >= self._accusers
        is_ended = update.standing is not Standing.SUSPECT
        if is_buried:
            known = tuple(verdicts.values())
            # Since when it is so nobody has signed: of one that lived here, since now.
            age_s = 0 if member is not None and member.is_live else update.age_s
            return Finding(_end(replace(update, age_s=age_s), known), known)
        if is_ended and member is None:
            # It is dead as far as anybody knows, and is asked itself, also if others say that it has left.
            return Finding(_bare(update, Standing.DEAD))
        if is_ended and member is not None and is_known and not member.is_live:
            return Finding(_end(update, tuple(proven)), tuple(proven))
        return self._suspect(update, proven, unknown, is_known=is_known)._replace(is_forged=is_forged)

    @staticmethod
    def _suspect(update: Update, proven: list[Accusation], unknown: NodeId | None, *, is_known: bool) -> Finding:
        """Return the suspicion that is proven; without any, what the claim says of the member's life."""
        if proven:
            first = proven[0]
            suspect = replace(
                _bare(update, Standing.SUSPECT), accuser=first.accuser, evidence=first.evidence, word=first.word
            )
            return Finding(suspect, tuple(proven), unknown)
        return Finding(None if is_known else _bare(update, Standing.ALIVE), (), unknown)


def _life_and_attributes(update: Update) -> tuple[object, ...]:
    return update.boot, update.incarnation, update.attributes


def _bare(update: Update, standing: Standing) -> Update:
    """Return a claim that nobody else has a part in."""
    if update.standing is standing and standing is not Standing.DEAD and not (update.accuser or update.accusations):
        return update
    return replace(
        update,
        standing=standing,
        accuser=NodeId(""),
        age_s=update.age_s if standing is Standing.LEFT else 0,
        evidence=Evidence.SILENCE,
        word=b"",
        accusations=(),
    )


def _end(update: Update, accusations: tuple[Accusation, ...]) -> Update:
    """Return the claim of an end with those verdicts that prove it, and no others."""
    if update.standing is Standing.LEFT:
        return replace(update, accusations=accusations[:ACCUSERS_NEEDED])
    return ended(update, accusations)


def ended(update: Update, accusations: tuple[Accusation, ...]) -> Update:
    """Return the claim that a member is dead, with its accusers: the one on the best evidence is told first."""
    ordered = sorted(accusations, key=lambda one: -one.evidence)[:ACCUSERS_NEEDED]
    if not ordered:
        return replace(_bare(update, Standing.DEAD))
    first = ordered[0]
    return replace(
        update,
        standing=Standing.DEAD,
        accuser=first.accuser,
        evidence=first.evidence,
        word=first.word,
        accusations=tuple(ordered[1:]),
    )
