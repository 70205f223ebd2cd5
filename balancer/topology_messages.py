"""What nodes say to one another about the topology record, and what they keep on disk.

Sans-I/O. Tags and field order are frozen; new fields go at the end with defaults (D10).
"""

from __future__ import annotations

from typing import Final

from frys_node.base.types import Epoch, Term
from frys_node.wire.codec import Codec, Message


class SignedRecord(Message, frozen=True):
    """An encoded record and the proof of who wrote it (fine print 3), verified before a machine sees it."""

    data: bytes
    proof: bytes


class RecordPush(Message, tag=1, frozen=True):
    """Here is my record."""

    record: SignedRecord


class RecordDigest(Message, tag=2, frozen=True):
    """I have adopted this record (None: none yet), and know that up to `settled` all is settled."""

    epoch: Epoch | None
    settled: Epoch | None
    wants_reply: bool = False


class Report(Message, tag=3, frozen=True):
    """To the issuer: I have durably adopted this very record; is my bulk copied, are my passes done, what waits."""

    epoch: Epoch
    is_bulk_done: bool
    is_done: bool
    waiting: int
    promised: Term | None = None
    """The term below which I adopt nothing any more, if I promised one."""
    taken_bytes: int = 0
    """What has come here of moves and passes, until I am done: more than ever under this record is progress too."""


class PromiseAsk(Message, tag=4, frozen=True):
    """Adopt nothing of a term below this one any more, durably, and tell me the record that you hold (rule 21)."""

    term: Term


class Promise(Message, tag=5, frozen=True):
    """I have promised that term durably, and this is the record that I hold (None: none yet)."""

    term: Term
    record: SignedRecord | None


class PromiseRefused(Message, tag=6, frozen=True):
    """I have promised more, or work under more, than you ask for."""

    term: Term
    highest: Term


class RecordReady(Message, tag=7, frozen=True):
    """To the issuer: your record is durable here and its units are placed; I adopt it when you say so (`unison`)."""

    epoch: Epoch


class RecordGo(Message, tag=8, frozen=True):
    """I adopt this record now, and so may you."""

    epoch: Epoch


UnisonWord = RecordReady | RecordGo
"""When a record comes into force."""

Statement = RecordDigest | Report | PromiseAsk | PromiseRefused
"""What the topology machine takes as it is. Pushes and promises carry records, which are verified first."""

TopologyMessage = RecordPush | Promise | Statement | UnisonWord
TOPOLOGY_MESSAGES: Final[Codec[TopologyMessage]] = Codec(TopologyMessage)
SIGNED_RECORD: Final[Codec[SignedRecord]] = Codec(SignedRecord)
