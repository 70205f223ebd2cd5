"""Messages between members: SWIM over sealed datagrams, and the state exchange over the channel.

Sans-I/O. Each message is an array with an integer tag in front (D10); golden packets in ``tests/golden`` hold the
format. The sender's identity and boot are not in here: they come authenticated from the seal.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, NamedTuple

import msgspec
from msgspec.structs import replace

from frys_node.base.types import Address, NodeId
from frys_node.wire.codec import Codec, Message
from frys_node.wire.version import PROTOCOL_MAX, PROTOCOL_MIN
from membership.packing import PackedCodec

TAGS_BYTES_MAX = 512
"""Keys and values of a member's tags, encoded."""

SIGNATURE_BYTES_MAX = 65
"""A signature by a member's voice (`membership.voices`); an accusation's has a byte in front that says how strong."""

ACCUSERS_NEEDED = 2
"""Members that must accuse another one before it is dead; fewer if fewer are left (design, fine print 12)."""

UPDATES_MAX = 64
"""Updates in one datagram; more than a packet can hold."""

PACKET_PLAIN_BYTES_MAX = 16_384
"""What a compressed packet may expand to: twice the largest one."""

SYNC_PLAIN_BYTES_MAX = 1 << 20
"""What a compressed piece of a state exchange may expand to."""

SYNC_UPDATES_MAX = 512
"""Updates in one piece of a state exchange: at most about 720 KiB, well within one frame."""

STATEMENT_BYTES_MAX = 16 * 1024
"""A voice's statement: about 1 KiB, or 9 KiB where identities are ML-DSA-65."""

_Id = Annotated[NodeId, msgspec.Meta(min_length=1, max_length=64)]
_IdOrNone = Annotated[NodeId, msgspec.Meta(max_length=64)]
_Sequence = Annotated[int, msgspec.Meta(ge=0)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
_Signature = Annotated[bytes, msgspec.Meta(max_length=SIGNATURE_BYTES_MAX)]
_Tag = tuple[Annotated[str, msgspec.Meta(max_length=128)], Annotated[str, msgspec.Meta(max_length=TAGS_BYTES_MAX)]]


INCARNATION_MAX = (1 << 62) - 1
"""Where a member's incarnation stands still: one more, and nobody could read what it says."""


VERDICT = 4
"""First byte of an accusation's signature: the evidence, and this if it is a verdict."""

NOBODY = NodeId("")
"""Sorts before every node id."""


class Standing(IntEnum):
    """Status on the wire; of two updates with equal boot and incarnation the greater standing wins."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class Evidence(IntEnum):
    """What an accusation rests on: the stronger it is, the shorter the suspicion it may have."""

    SILENCE = 0
    """A probe and its helpers heard nothing."""
    GONE = 1
    """A watcher's phi passed its threshold, and the member's kernel did not acknowledge a nudge either."""
    CRASH = 2
    """A lifeline ended without a goodbye, and the member's port refuses connections."""


class NackReason(IntEnum):
    """Why a helper could not reach the target."""

    TIMEOUT = 0
    REFUSED = 1
    UNREACHABLE = 2


class Attributes(Message, frozen=True, array_like=True, gc=False, order=True):
    """What a member says of itself. Only the member changes it, and raises its incarnation when it does."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    port: _Port
    http: Annotated[str, msgspec.Meta(max_length=262)] = ""
    tags: Annotated[tuple[_Tag, ...], msgspec.Meta(max_length=64)] = ()
    """Pairs in order of their keys."""
    protocol_min: int = PROTOCOL_MIN
    protocol_max: int = PROTOCOL_MAX

    @property
    def address(self) -> Address:
        """Where the member is reached, by UDP and TCP."""
        return Address(self.host, self.port)


class Accusation(Message, frozen=True, array_like=True, gc=False):
    """One member's word that another one does not answer, or that it is dead."""

    accuser: _Id
    evidence: Evidence
    word: _Signature
    """The accuser's signature over the accused's (boot, incarnation), the evidence and whether it is a verdict."""

    @property
    def is_verdict(self) -> bool:
        """True if the accuser's own suspicion had run out: it does not doubt that the member is there, it buried it."""
        return bool(self.word) and self.word[0] >= VERDICT


_Accusations = Annotated[tuple[Accusation, ...], msgspec.Meta(max_length=ACCUSERS_NEEDED)]


class Update(Message, frozen=True, array_like=True, gc=False):
    """One claim about one member: the unit of gossip, and what the table holds."""

    node: _Id
    boot: Annotated[int, msgspec.Meta(ge=0)]
    incarnation: Annotated[int, msgspec.Meta(ge=0, le=INCARNATION_MAX)]
    standing: Standing
    attributes: Attributes
    accuser: _IdOrNone = NodeId("")
    """Who raised a suspicion; of the dead, who accused it on the best evidence; of the left, who declared it: empty if
    it said so itself. Told to people, and not part of the precedence."""
    age_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    """For the dead and the left: seconds since they became so, so that they are forgotten everywhere at about once."""
    evidence: Evidence = Evidence.SILENCE
    """What a suspicion, or a death, rests on. Not part of the precedence."""
    proof: _Signature = b""
    """The member's own signature over boot, incarnation and attributes, and over its leave if it says so itself."""
    word: _Signature = b""
    """The accuser's signature; of one who declares the dead to have left, over that."""
    accusations: _Accusations = ()
    """Further accusers. A death is believed on the verdicts of two."""


class Brief(Message, frozen=True, array_like=True, gc=False):
    """A claim without the member's attributes, in a packet that has no room for them (see `membership.briefs`)."""

    node: _Id
    boot: Annotated[int, msgspec.Meta(ge=0)]
    incarnation: Annotated[int, msgspec.Meta(ge=0, le=INCARNATION_MAX)]
    standing: Standing
    mark: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    """Stands for the attributes that are meant."""
    accuser: _IdOrNone = NodeId("")
    age_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    evidence: Evidence = Evidence.SILENCE
    proof: _Signature = b""
    word: _Signature = b""
    accusations: _Accusations = ()


def raised(update: Update, incarnation: int) -> Update:
    """Return an update that stands above an incarnation, if there is one above it."""
    return replace(update, incarnation=min(incarnation + 1, INCARNATION_MAX))


_Updates = Annotated[tuple[Update, ...], msgspec.Meta(max_length=UPDATES_MAX)]
_Briefs = Annotated[tuple[Brief, ...], msgspec.Meta(max_length=UPDATES_MAX)]
_Rumours = Annotated[tuple[bytes, ...], msgspec.Meta(max_length=UPDATES_MAX)]
"""Each an encoded `membership.rumours.Rumour`: a kind that a node does not know costs it nothing but the bytes."""


class Ping(Message, frozen=True, array_like=True, gc=False, tag=1):
    """Are you there? An empty target asks whoever is at the address."""

    sequence: _Sequence
    target: _IdOrNone
    updates: _Updates = ()
    briefs: _Briefs = ()


class Ack(Message, frozen=True, array_like=True, gc=False, tag=2):
    """`node` is there: it answered, to the sender of this or to a helper.

    `digest` is that of the sender's table (`Table.digest`), so that what gossip has missed is found and exchanged.
    """

    sequence: _Sequence
    node: _Id
    updates: _Updates = ()
    digest: Annotated[int, msgspec.Meta(ge=0)] = 0
    briefs: _Briefs = ()


class PingReq(Message, frozen=True, array_like=True, gc=False, tag=3):
    """Ping the target for me."""

    sequence: _Sequence
    target: _Id
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    port: _Port
    updates: _Updates = ()
    briefs: _Briefs = ()


class Nack(Message, frozen=True, array_like=True, gc=False, tag=4):
    """The target did not answer me either."""

    sequence: _Sequence
    target: _Id
    updates: _Updates = ()
    reason: NackReason = NackReason.TIMEOUT
    briefs: _Briefs = ()
    boot: Annotated[int, msgspec.Meta(ge=0)] = 0
    incarnation: Annotated[int, msgspec.Meta(ge=0, le=INCARNATION_MAX)] = 0
    """The life of the target that the helper knows."""
    word: _Signature = b""
    """With it the nack is the helper's own accusation, of silence."""


class Gossip(Message, frozen=True, array_like=True, gc=False, tag=5):
    """Updates alone, and rumours: whatever else spreads by gossip."""

    updates: _Updates = ()
    rumours: _Rumours = ()
    briefs: _Briefs = ()


class Sync(Message, frozen=True, array_like=True, gc=False, tag=6):
    """A piece of the whole table, in order of node id (push-pull).

    `more` means that this side has members beyond the last one here; `after` asks the other side for its members
    beyond that id. Stateless, so that neither side keeps anything for the other.
    """

    updates: Annotated[tuple[Update, ...], msgspec.Meta(max_length=SYNC_UPDATES_MAX)]
    after: _IdOrNone = NodeId("")
    more: bool = False
    said: bytes = b""
    """`membership.catchup.Heads` of the sender, encoded; in the first piece only."""
    statements: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=STATEMENT_BYTES_MAX)], ...],
        msgspec.Meta(max_length=SYNC_UPDATES_MAX + 1),
    ] = ()
    """Whose voices there are (`membership.voices`): the sender's in the first piece, and in an answer those of members
    that the asker has not named, as far as there is room."""


class Beat(Message, frozen=True, array_like=True, gc=False, tag=7):
    """A watcher's ping, as small as can be: the seal says who asks, the address who is asked."""

    sequence: _Sequence
    updates: _Updates = ()
    briefs: _Briefs = ()


class BeatAck(Message, frozen=True, array_like=True, gc=False, tag=8):
    """The answer to a watcher; the seal says whose."""

    sequence: _Sequence
    updates: _Updates = ()
    briefs: _Briefs = ()


Packet = Ping | Ack | PingReq | Nack | Gossip | Beat | BeatAck

PACKET_NAMES = {
    Ping: "ping",
    Ack: "ack",
    PingReq: "ping_req",
    Nack: "nack",
    Gossip: "gossip",
    Beat: "beat",
    BeatAck: "beat_ack",
}
"""Names of the packets in metrics."""

PACKETS: Codec[Packet] = PackedCodec(Packet, PACKET_PLAIN_BYTES_MAX)
"""Codec of what travels in sealed datagrams. It reads compressed ones; `Outbox` compresses."""

SYNCS: Codec[Sync] = Codec(Sync)
"""Codec of the state exchange."""

UPDATES: Codec[Update] = Codec(Update)
"""Codec of one update, for its size."""


class Source(NamedTuple):
    """Who sent a packet, as its seal proves."""

    node: NodeId
    boot: int
    address: Address
    is_short: bool
