"""What an accusation counts that came from somebody else, in gossip or a state exchange.

Sans-I/O. An accusation is signed, so nobody makes one up for another (`membership.scrutiny`). That two have seen a
crash is for their own reports to say (`membership.testimony`), so a crash that is only told counts as GONE. And a node
knows best what it has seen itself: as its own voice nothing counts but that its nack was taken for one, of silence.
"""

from __future__ import annotations

from msgspec.structs import replace

from frys_node.base.types import NodeId
from membership.messages import Evidence, Standing, Update


def attributed(update: Update, own: NodeId) -> Update:
    """Return a claim that was heard, without evidence that this node is said to have had."""
    is_own_voice = update.standing is Standing.SUSPECT and update.accuser == own
    return replace(update, evidence=Evidence.SILENCE) if is_own_voice and update.evidence else update


def weighed(evidence: Evidence) -> Evidence:
    """Return what told evidence counts as."""
    return min(evidence, Evidence.GONE)
