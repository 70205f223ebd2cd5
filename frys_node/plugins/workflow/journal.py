"""Entries of a run's journal and their codec. Sans-I/O.

State is a fold over inputs: only these entries are ever recorded, one per thing that came from outside the workflow
code, plus the notes (`Mark`, `Ended`) that the code's own decisions leave exactly where they were made. Commands, armed
deadlines and open nurseries are derived by replay.

Format: one MessagePack array of tagged arrays per append, after a version byte (D14). Fields are only ever added at
the end, with defaults; the golden file in the tests must decode for ever. ``at`` is Unix time in seconds.
"""

from __future__ import annotations

import msgspec

from frys_node.base.errors import CorruptData, MalformedFrame
from frys_node.wire.codec import Codec, Message

JOURNAL_VERSION = 1


class Started(Message, frozen=True, tag=1):
    """The first entry. `input` is the MessagePack form of the workflow's argument."""

    at: float
    run: str
    namespace: str
    name: str
    version: str
    input: bytes


class StepDone(Message, frozen=True, tag=2):
    """A step's one outcome: its value in MessagePack. `crc` is of the arguments."""

    at: float
    id: str
    name: str
    crc: int
    value: bytes
    attempts: int
    started_at: float


class StepFailed(Message, frozen=True, tag=3):
    """A step gave up after its last attempt."""

    at: float
    id: str
    name: str
    crc: int
    type_name: str
    message: str
    attempts: int
    started_at: float
    detail: str = ""


class StepStopped(Message, frozen=True, tag=4):
    """A step that was told to stop has stopped without an outcome."""

    at: float
    id: str
    name: str


class DeadlineFired(Message, frozen=True, tag=5):
    """A cancel scope's deadline passed."""

    at: float
    id: str


class Signalled(Message, frozen=True, tag=6):
    """A signal arrived. `signal` is the sender's id for it; a repeated one is not recorded again."""

    at: float
    signal: str
    name: str
    value: bytes


class CancelRequested(Message, frozen=True, tag=7):
    """Somebody asked for the run to be cancelled."""

    at: float
    reason: str


class Mark(Message, frozen=True, tag=8):
    """``ctx.patched(key)`` answered True for the first time."""

    at: float
    key: str


class Ended(Message, frozen=True, tag=9):
    """The run's end: status ``completed`` with its value, or ``faulted``/``cancelled`` with an error."""

    at: float
    status: str
    value: bytes = b""
    type_name: str = ""
    message: str = ""
    detail: str = ""


Entry = Started | StepDone | StepFailed | StepStopped | DeadlineFired | Signalled | CancelRequested | Mark | Ended

_CODEC: Codec[list[Entry]] = Codec(list[Entry])


def encode_entries(entries: list[Entry]) -> bytes:
    """Return the bytes of consecutive entries."""
    return bytes((JOURNAL_VERSION,)) + _CODEC.encode(entries)


def decode_entries(data: bytes) -> list[Entry]:
    """Return the entries of one append.

    Raises:
        CorruptData: Not journal bytes, or of a newer version. They are not used.
    """
    if not data or data[0] != JOURNAL_VERSION:
        raise CorruptData(f"journal format {data[:1].hex() or 'missing'}: this node reads {JOURNAL_VERSION:02x}")
    try:
        return _CODEC.decode(memoryview(data)[1:])
    except MalformedFrame as error:
        raise CorruptData(f"a journal piece is damaged: {error.message}") from error


class RunError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run is not completed, as shown to people."""

    type: str
    message: str
    detail: str = ""
