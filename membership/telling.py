"""How a claim that won is told in the story of its member.

Sans-I/O. A claim of death names the strongest accuser and what that rested on, one of a departure who declared it.
Either has signed it (`membership.scrutiny`); what is told of a member that was never known here may name nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from frys_node.base.types import NodeId
from membership.messages import Evidence, Standing, Update
from membership.story import Entry
from membership.suspicion import Suspicion

AS_OTHERS_SAY = "as others say"


def turns(
    old: Update | None,
    update: Update,
    *,
    now_s: float,
    changed_s: float,
    suspicion: Suspicion | None = None,
    is_heard: bool = False,
    is_heir: bool = False,
) -> Iterator[Entry]:
    """Return what a claim that won over another one means.

    Args:
        old: What was believed before; None of an unknown member.
        update: The claim.
        now_s: When this node took it.
        changed_s: Since when it is so: others may have known of an end for long.
        suspicion: The one that ran here.
        is_heard: True if it came from others, False for this node's own conclusion.
        is_heir: True if the accuser lives under the member's name.
    """
    standing = update.standing
    if old is None and standing >= Standing.DEAD:
        # It happened before this node had heard of the member at all.
        yield _end(old, update, changed_s, suspicion, is_heard=is_heard, is_heir=is_heir)
    if old is None or old.boot < update.boot:
        yield Entry(now_s, "met" if old is None else "restarted", detail=standing.name.lower())
    if standing is Standing.SUSPECT:
        detail = source_told(update.evidence, is_heard=is_heard)
        yield Entry(now_s, "suspected", update.accuser, update.evidence, detail)
    elif old is None or old.standing == standing:
        return
    elif standing >= Standing.DEAD:
        yield _end(old, update, now_s, suspicion, is_heard=is_heard, is_heir=is_heir)
    elif old.boot == update.boot:
        yield Entry(now_s, "refuted", detail=f"incarnation {update.incarnation}, was {old.standing.name.lower()}")


def _end(
    old: Update | None, update: Update, at_s: float, suspicion: Suspicion | None, *, is_heard: bool, is_heir: bool
) -> Entry:
    """Tell a death or a departure."""
    accuser = NodeId("") if update.accuser == update.node else update.accuser
    if update.standing is Standing.LEFT:
        if is_heir:
            return Entry(at_s, "replaced", accuser)
        # Who leaves raises its incarnation: whoever says so at the same one does it in the member's place.
        is_own_word = old is None or (old.boot, old.incarnation) < (update.boot, update.incarnation)
        return Entry(at_s, "left", accuser, detail="" if accuser or is_own_word else AS_OTHERS_SAY)
    if is_heard:
        return Entry(at_s, "dead", accuser, update.evidence if accuser else None, AS_OTHERS_SAY)
    if suspicion is None:
        return Entry(at_s, "dead")
    votes = len(suspicion.accusers)
    return Entry(
        at_s,
        "dead",
        detail=f"{votes} {'vote' if votes == 1 else 'votes'}, {at_s - suspicion.since_s:.2f} s after the first",
    )


# What an accusation is told to rest on.

REFUSED = "refused"
UNPROVEN = "unproven"
"""Beside the names of `Evidence`: what counts as silence, and is a closed port found by one observer, or by several who
do not suffice for a crash."""

HEARSAY = "hearsay"
"""A crash that others only tell of: it counts as gone, until two observers have reported it themselves."""

_BREAKS = frozenset({"met", "restarted", "refuted", "vouched", "dead", "left", "replaced"})
"""Turns beyond which a refusal has no more to do with an accusation."""


def source_told(evidence: Evidence, *, is_heard: bool) -> str:
    """Return the detail of an accusation: of a crash it matters whether this node knows it or is told so."""
    return AS_OTHERS_SAY if is_heard and evidence is Evidence.CRASH else ""


def evidence_told(story: Sequence[Entry], index: int) -> str | None:
    """Return what a turn rests on; whoever found the port closed does not merely hear nothing."""
    entry = story[index]
    if entry.evidence is None:
        return None
    if entry.what not in ("suspected", "confirmed"):
        return entry.evidence.name.lower()
    if entry.evidence is Evidence.CRASH and entry.detail == AS_OTHERS_SAY:
        return HEARSAY
    start, end = index, index + 1
    while start and story[start - 1].what not in _BREAKS:
        start -= 1
    while end < len(story) and story[end].what not in _BREAKS:
        end += 1
    known = [e for e in story[start:end] if e.now_s <= entry.now_s or e.who == entry.who]
    return _told(entry.who, entry.evidence, known)


def vote_told(story: Sequence[Entry], accuser: NodeId, evidence: Evidence) -> str:
    """Return what a vote in the suspicion that runs rests on."""
    start = len(story)
    while start and story[start - 1].what not in _BREAKS:
        start -= 1
    return _told(accuser, evidence, story[start:])


def _told(accuser: NodeId, evidence: Evidence, turns_since: Sequence[Entry]) -> str:
    told = [entry for entry in turns_since if entry.who == accuser and entry.evidence is Evidence.CRASH]
    if evidence is Evidence.GONE and any(entry.detail == AS_OTHERS_SAY for entry in told):
        return HEARSAY
    observers = {entry.who for entry in turns_since if entry.what == "refused"}
    if evidence is not Evidence.SILENCE or accuser not in observers:
        return evidence.name.lower()
    return REFUSED if len(observers) == 1 else UNPROVEN
