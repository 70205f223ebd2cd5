"""Replication and topology formats: bytes of the first version decode for ever, and are still written so (D14)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from balancer.topology_messages import (
    SIGNED_RECORD,
    TOPOLOGY_MESSAGES,
    Promise,
    PromiseAsk,
    PromiseRefused,
    RecordDigest,
    RecordGo,
    RecordPush,
    RecordReady,
    Report,
    SignedRecord,
)
from frys_node.base.types import Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.replication import Entry, Stamp, Version
from frys_node.replication.frames import FrameWriter, LogReader, Taken, records_of
from frys_node.replication.messages import (
    EVERY_UNIT,
    MESSAGES,
    Batch,
    CompletedRecord,
    DamagedRecord,
    DroppedRecord,
    EntriesRecord,
    FloorsRecord,
    LeafAsk,
    LeafPage,
    LogRecord,
    Purge,
    Purged,
    Read,
    ReadReply,
    Refused,
    Repair,
    RepairAck,
    RightedRecord,
    Scan,
    ScanReply,
    Seal,
    Sealed,
    Tree,
    TreeAsk,
    WipedRecord,
    Write,
    WriteAck,
    WriteRefused,
    lost_records,
)

HERE = Path(__file__).parent
NODE = NodeId("00112233445566778899aabbccddeeff")
EPOCH = Epoch(Term(1, NODE), 42)
UNIT = UnitId("vector/ab12/3")
OTHER = UnitId("vector/FRL2/0")
VERSION = Version(1_750_000_000_123, 7, NODE, 4_294_967_299)
ENTRY = Entry(b"key", VERSION, b"value")
GONE = Entry(b"gone", VERSION, None)

MESSAGES_1: list[Any] = [
    Write(EPOCH, UNIT, 5, 1, VERSION, [(b"key", b"value"), (b"gone", None)]),
    WriteAck(EPOCH, UNIT, 5, 1, VERSION),
    Read(EPOCH, UNIT, 6, 2, [b"key"], True),
    ReadReply(EPOCH, UNIT, 6, 2, True, [ENTRY, None, GONE], [Stamp(VERSION, False), None]),
    Scan(EPOCH, UNIT, 7, 1, b"a", 100),
    ScanReply(EPOCH, UNIT, 7, 1, True, [b"key"], False),
    Refused(None, UNIT, 7, 1),
    Repair(EPOCH, UNIT, 8, [ENTRY]),
    RepairAck(EPOCH, UNIT, 8),
    TreeAsk(EPOCH, UNIT, 9),
    Tree(EPOCH, UNIT, 9, True, b"\x01\x02"),
    LeafAsk(EPOCH, UNIT, 9, b"\x03", b"a", False),
    LeafPage(EPOCH, UNIT, 9, b"a", True, [ENTRY], True),
]
TOPOLOGY_1: list[Any] = [
    RecordPush(SignedRecord(b"data", b"proof")),
    RecordDigest(EPOCH, None, True),
    Report(EPOCH, True, False, 3),
]
TERM = Term(2, NodeId("b"))
TOPOLOGY_2 = [
    *TOPOLOGY_1,
    Report(EPOCH, True, False, 3, TERM),
    PromiseAsk(TERM),
    Promise(TERM, SignedRecord(b"data", b"proof")),
    Promise(TERM, None),
    PromiseRefused(TERM, TERM),
]
TOPOLOGY_3 = [*TOPOLOGY_2, RecordReady(EPOCH), RecordGo(EPOCH)]
TOPOLOGY_4 = [*TOPOLOGY_3, Report(EPOCH, False, False, 3, None, 1 << 30)]
GROUPS_1: list[list[LogRecord]] = [
    [EntriesRecord(UNIT, [ENTRY, GONE])],
    [WipedRecord(UNIT, EPOCH), CompletedRecord(UNIT), DroppedRecord(UNIT)],
]


def lines(name: str) -> list[bytes]:
    """Return the golden bytes, one message a line in hex."""
    return [bytes.fromhex(line) for line in (HERE / name).read_text(encoding="ascii").split()]


MESSAGES_2 = [
    *MESSAGES_1,
    Tree(EPOCH, UNIT, 9, True, b"\x01\x02", VERSION),
    TreeAsk(EPOCH, UNIT, 9, b"\x03" * 16),
    Tree(EPOCH, UNIT, 9, True, b"", None, True),
    WriteRefused(EPOCH, UNIT, 5, 1, "storage.full"),
]
MESSAGES_3 = [
    *MESSAGES_2,
    Write(EPOCH, UNIT, 5, 1, VERSION, [(b"key", b"value")], 1_750_000_000_120),
    WriteAck(EPOCH, UNIT, 5, 1, VERSION, 9),
    WriteRefused(EPOCH, UNIT, 5, 1, "replication.too_old", VERSION),
    Read(EPOCH, UNIT, 6, 2, [b"key"], False, 9),
    ReadReply(EPOCH, UNIT, 6, 2, True, [ENTRY], [], 10),
    Tree(EPOCH, UNIT, 9, True, b"", None, True, VERSION, VERSION),
    Seal(EPOCH, UNIT, 11, VERSION, VERSION),
    Sealed(EPOCH, UNIT, 11, True, b"\x04" * 16, VERSION),
    Purge(EPOCH, UNIT, 11, VERSION),
    Purged(EPOCH, UNIT, 11),
    Batch([b"one", b"two"]),
]
MESSAGES_4 = [
    *MESSAGES_3,
    Read(EPOCH, UNIT, 6, 2, [b"key", b"more"], False, 9, True),
    RepairAck(EPOCH, UNIT, 8, False),
]
MESSAGES_5 = [
    *MESSAGES_4,
    Tree(EPOCH, UNIT, 9, True, b"", None, True, VERSION, VERSION, VERSION),
    LeafPage(EPOCH, UNIT, 9, b"a", True, [ENTRY], True, VERSION),
]
GROUPS_2: list[list[LogRecord]] = [
    *GROUPS_1,
    [FloorsRecord(UNIT, VERSION, None), RightedRecord(UNIT, [b"gone"], [ENTRY]), *lost_records(UNIT, EPOCH)],
    [CompletedRecord(EVERY_UNIT), DamagedRecord(OTHER)],
]
"""Each group is one section but the last, which has one for each unit."""


@pytest.mark.parametrize(
    ("name", "codec", "messages"),
    [
        ("replication-messages-1.hex", MESSAGES, MESSAGES_1),
        ("replication-messages-2.hex", MESSAGES, MESSAGES_2),
        ("replication-messages-3.hex", MESSAGES, MESSAGES_3),
        ("replication-messages-4.hex", MESSAGES, MESSAGES_4),
        ("replication-messages-5.hex", MESSAGES, MESSAGES_5),
        ("topology-messages-1.hex", TOPOLOGY_MESSAGES, TOPOLOGY_1),
        ("topology-messages-2.hex", TOPOLOGY_MESSAGES, TOPOLOGY_2),
        ("topology-messages-3.hex", TOPOLOGY_MESSAGES, TOPOLOGY_3),
        ("topology-messages-4.hex", TOPOLOGY_MESSAGES, TOPOLOGY_4),
    ],
)
def test_messages_of_every_version_are_read(name: str, codec: Any, messages: list[Any]) -> None:
    """Every message type has a golden line in each version, and means the same in later ones."""
    assert [codec.decode(data) for data in lines(name)] == messages


@pytest.mark.parametrize(
    ("name", "codec", "messages"),
    [("replication-messages-5.hex", MESSAGES, MESSAGES_5), ("topology-messages-4.hex", TOPOLOGY_MESSAGES, TOPOLOGY_4)],
)
def test_messages_of_the_newest_version_are_written_unchanged(name: str, codec: Any, messages: list[Any]) -> None:
    """What is written today is the newest golden file, byte for byte."""
    assert [codec.encode(message) for message in messages] == lines(name)


def read_log(name: str) -> list[list[Any]]:
    """Return the records of a golden log, section by section, none of them damaged or torn."""
    golden = (HERE / name).read_bytes()
    reader = LogReader([golden], 0)
    found = [records_of(golden, step.section) for step in reader if isinstance(step, Taken)]
    assert reader.ends == [len(golden)]
    return found


def test_a_log_of_the_first_version_is_read() -> None:
    """The frames of the first data directories are recovered, a whole group each."""
    assert read_log("replication-log-1.bin") == GROUPS_1


def test_a_log_of_the_second_version_is_read_and_written_unchanged() -> None:
    """The frames of a data directory made today, groups and marks, are recovered by every later version."""
    assert read_log("replication-log-2.bin") == [*GROUPS_2[:-1], *([record] for record in GROUPS_2[-1])]
    assert log_2() == (HERE / "replication-log-2.bin").read_bytes()


def log_2() -> bytes:
    """Return the log of the second version."""
    writer = FrameWriter()
    # The log of a new node begins with a mark.
    written = [writer.mark()]
    writer.wrote(written[-1])
    for group in GROUPS_2:
        written.append(writer.group(group))
        writer.wrote(written[-1], group)
        written.append(writer.mark())
        writer.wrote(written[-1])
    written.append(writer.mark(covers=len(GROUPS_2)))
    return b"".join(written)


def test_an_adopted_record_of_the_first_version_is_read_and_written_unchanged() -> None:
    """The files `topology/adopted` and `topology/register` keep their form."""
    (golden,) = lines("signed-record-1.hex")
    assert SIGNED_RECORD.decode(golden) == SignedRecord(b"data", b"proof")
    assert SIGNED_RECORD.encode(SignedRecord(b"data", b"proof")) == golden
