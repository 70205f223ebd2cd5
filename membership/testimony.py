"""What members testify of others: that one has crashed, or that one is there all the same.

Sans-I/O. Both travel as rumours (`Gossip.rumours`) and speak of one life of a member: node, boot, incarnation. A newer
boot makes older testimony void, and so does a higher incarnation: the accused has answered.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from frys_node.base.types import NodeId
from frys_node.wire.codec import Message
from membership.messages import SIGNATURE_BYTES_MAX, Accusation, Evidence

_Id = Annotated[NodeId, msgspec.Meta(min_length=1, max_length=64)]
_Boot = Annotated[int, msgspec.Meta(ge=0)]
_Word = Annotated[bytes, msgspec.Meta(max_length=SIGNATURE_BYTES_MAX)]
_Incarnation = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class VouchKind(IntEnum):
    """What a voucher has seen of a member that others miss."""

    KERNEL_ACK = 0
    """Its kernel acknowledged a byte on a lifeline: the process exists, and does not run. STALLED."""
    DATAGRAM = 1
    """It sent an authenticated packet after the evidence that its port refuses. DEGRADED."""
    HELPER = 2
    """Its port accepted a helper's connection and kept it open."""
    LIFELINE = 3
    """Its kernel acknowledged a byte on this member's lifeline while others found its port refusing."""


class Vouch(Message, frozen=True, array_like=True, gc=False, tag=2):
    """`voucher` knows that this life of the node has not ended."""

    node: _Id
    boot: _Boot
    incarnation: _Incarnation
    voucher: _Id
    kind: VouchKind
    sequence: _Boot = 0
    """Rises with what the voucher says, over its restarts too: a repetition is news, an echo is not."""
    word: _Word = b""
    """The voucher's signature."""

    @property
    def author(self) -> NodeId:
        """Whose signature it needs."""
        return self.voucher

    @property
    def key(self) -> str:
        """Who vouches for whom: the latest word replaces the one before."""
        return f"{self.node}/{self.voucher}"


class CrashReport(Message, frozen=True, array_like=True, gc=False, tag=3):
    """`observer` found the node's port refusing; a watcher has lost its lifeline to that very boot as well."""

    node: _Id
    boot: _Boot
    incarnation: _Incarnation
    observer: _Id
    is_lifeline_lost: bool
    is_refused: bool = True
    word: _Word = b""
    """The observer's signature under an accusation of a crash (`membership.voices`)."""

    @property
    def accusation(self) -> Accusation:
        """What it accuses the node of."""
        return Accusation(self.observer, Evidence.CRASH, self.word)

    @property
    def key(self) -> str:
        """Who reports on whom."""
        return f"{self.node}/{self.observer}"
