"""Journals written by any version must decode for ever, and mean the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from frys_node.base.errors import CorruptData
from frys_node.plugins.workflow.journal import (
    CancelRequested,
    DeadlineFired,
    Ended,
    Mark,
    Signalled,
    Started,
    StepDone,
    StepFailed,
    StepStopped,
    decode_entries,
    encode_entries,
)
from frys_node.plugins.workflow.runs import META, STATE, RunMeta, RunState, error_of

GOLDEN = Path(__file__).parent / "workflow_journal_v1.hex"
ENTRIES = [
    Started(1700000000.25, "run-1", "default", "order", "3", b"\x81\xa2id\x07"),
    StepDone(1700000001.5, ":1", "charge", 0xDEADBEEF, b"\xc3", 2, 1700000000.5),
    StepFailed(1700000002.0, "3.1:2/17", "render", 7, "ValueError", "no", 5, 1700000001.0, "flow.py:3 in render"),
    StepStopped(1700000003.0, ":2", "charge"),
    DeadlineFired(1700000004.0, "3.1@4"),
    Signalled(1700000005.0, "s-1", "approved", b"\xa3yes"),
    CancelRequested(1700000006.0, "enough"),
    Mark(1700000006.5, "2026-12"),
    Ended(1700000007.0, "faulted", b"", "ValueError", "no", "flow.py:9 in order"),
]


def test_version_1_journals_decode_for_ever():
    """The bytes of every entry kind, as first released."""
    data = bytes.fromhex(GOLDEN.read_text())
    assert decode_entries(data) == ENTRIES
    assert encode_entries(ENTRIES) == data


def test_rows_of_version_1_decode_for_ever():
    """Meta and state of a run's row."""
    meta, state = RunMeta("default", "order", "3"), RunState(b"\xc3", error_of("a", "b", "c"))
    assert META.encode(meta).hex() == "93a764656661756c74a56f72646572a133"
    assert META.decode(META.encode(meta)) == meta
    encoded = "92c401c383a474797065a161a76d657373616765a162a664657461696ca163"
    assert STATE.encode(state).hex() == encoded
    assert STATE.decode(bytes.fromhex(encoded)) == state


@pytest.mark.parametrize("data", [b"", b"\x02\x90", b"\x01", b"\x01\xc1", b"\x01\x91\x92\x63\x00", b"\x01\x91\x91\x01"])
def test_damaged_journals_are_corrupt_data(data):
    """Never anything else, never a guess."""
    with pytest.raises(CorruptData):
        decode_entries(data)
