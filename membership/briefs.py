"""Claims without the member's attributes, for packets in which the whole claim does not fit.

Sans-I/O. A member with many tags on links with a small MTU: its claim, some hundred bytes of which are attributes that
nearly everybody knows, is longer than a packet. Left to the state exchange alone, a refutation would come long after
the death that it answers. So such a claim travels as a `Brief`, with a mark in place of the attributes. Whoever holds
attributes of that mark has the very claim that was meant, and the order of claims (`membership.member`) is as it was.
Whoever holds others asks the one that told it for its whole state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from msgspec.structs import replace

from frys_node.base.types import NodeId
from frys_node.wire.codec import Codec
from membership.messages import Attributes, Brief, Packet, Standing, Update
from membership.table import Table

BRIEFS: Codec[Brief] = Codec(Brief)
"""Codec of one brief, for its size."""

MARKS_MAX = 256
"""Marks kept in memory; only members whose claims do not fit need any."""

_ATTRIBUTES: Codec[Attributes] = Codec(Attributes)


@lru_cache(maxsize=MARKS_MAX)
def mark(attributes: Attributes) -> bytes:
    """Return eight bytes that stand for a member's attributes."""
    return hashlib.blake2b(_ATTRIBUTES.encode(attributes), digest_size=8).digest()


def brief_of(update: Update) -> Brief:
    """Return the claim without attributes."""
    return Brief(
        update.node,
        update.boot,
        update.incarnation,
        update.standing,
        mark(update.attributes),
        update.accuser,
        update.age_s,
        update.evidence,
        update.proof,
        update.word,
        update.accusations,
    )


def whole(brief: Brief, held: Update, *, is_own: bool) -> Update | None:
    """Return the claim that was meant, given what is held about the member; None if the attributes are not known."""
    is_newer = (brief.boot, brief.incarnation) >= (held.boot, held.incarnation)
    # What a node has said of itself it knows, and what is older than what is held loses whatever it says.
    if is_newer and not is_own and mark(held.attributes) != brief.mark:
        return None
    return replace(
        held,
        boot=brief.boot,
        incarnation=brief.incarnation,
        standing=brief.standing,
        accuser=brief.accuser,
        age_s=brief.age_s,
        evidence=brief.evidence,
        proof=brief.proof,
        word=brief.word,
        accusations=brief.accusations,
    )


def unfold(message: Packet, table: Table, own: NodeId) -> tuple[Sequence[Update], bool]:
    """Return the claims that a packet brings, and whether the sender must be asked for what they leave out."""
    if not message.briefs:
        return message.updates, False
    updates, is_wanting = list(message.updates), False
    for brief in message.briefs:
        member = table.get(brief.node)
        update = None if member is None else whole(brief, member.update, is_own=brief.node == own)
        if update is not None:
            updates.append(update)
        elif member is not None or brief.standing <= Standing.SUSPECT:
            is_wanting = True
    return updates, is_wanting
