"""Every message of replication fits a frame, at its limits too."""

from __future__ import annotations

import random
from typing import Any

import pytest

from frys_node.base.errors import UsageError
from frys_node.base.types import Epoch, NodeId, Term, UnitId
from frys_node.channel.messages import BODY_BYTES_MAX
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication import hashtree
from frys_node.replication.answers import answer_read, answer_scan
from frys_node.replication.batches import batches, first_keys, split
from frys_node.replication.messages import (
    ITEMS_BYTES_MAX,
    KEY_BYTES_MAX,
    KEYS_BYTES_MAX,
    MESSAGES,
    READ_BYTES_MAX,
    SCAN_KEYS_MAX,
    VALUE_BYTES_MAX,
    Batch,
    LeafAsk,
    LeafPage,
    Purge,
    Purged,
    Read,
    Refused,
    Repair,
    RepairAck,
    Scan,
    Seal,
    Sealed,
    Tree,
    TreeAsk,
    Write,
    WriteAck,
    WriteRefused,
)
from frys_node.replication.pull import PullSource
from frys_node.replication.unit import HeldUnit, pages
from frys_node.testing.data_cluster import DictStore

BIG = (1 << 63) - 1
NODE = NodeId("f" * 32)
EPOCH = Epoch(Term(BIG, NODE), BIG)
UNIT = UnitId("vector/" + "c" * 300 + "/65535")
VERSION = Version(BIG, BIG, NODE, BIG)
HEAD: tuple[Any, ...] = (EPOCH, UNIT, BIG)
LONGEST_KEY = b"k" * KEY_BYTES_MAX
LARGEST = Entry(LONGEST_KEY, VERSION, bytes(VALUE_BYTES_MAX - KEY_BYTES_MAX - 16))
"""The largest that may be written."""


def holding(entries: list[Entry]) -> HeldUnit:
    """Return a complete unit that holds entries."""
    held = HeldUnit(UNIT, DictStore(), durable=True, complete=True, join_key=None)
    held.put(entries)
    return held


def fits(message: Any) -> bool:
    """True if the channel takes the message."""
    return len(MESSAGES.encode(message)) <= BODY_BYTES_MAX


def test_small_messages_fit_whatever_they_say() -> None:
    """Those without keys and values are a few hundred bytes, a tree two kilobytes."""
    small = [
        WriteAck(*HEAD, BIG, VERSION, BIG),
        WriteRefused(*HEAD, BIG, "storage." + "x" * 64, VERSION),
        Refused(*HEAD, BIG),
        RepairAck(*HEAD),
        TreeAsk(*HEAD, bytes(16)),
        Tree(*HEAD, True, hashtree.build([LARGEST]), VERSION, False, VERSION, VERSION),
        Seal(*HEAD, VERSION, VERSION),
        Sealed(*HEAD, True, bytes(16), VERSION),
        Purge(*HEAD, VERSION),
        Purged(*HEAD),
    ]
    assert max(len(MESSAGES.encode(message)) for message in small) < 4_096


@pytest.mark.parametrize("value_bytes", [0, 1, 100, 5_000, 200_000, len(LARGEST.value or b"")])
def test_writes_and_what_becomes_of_them_fit(value_bytes: int) -> None:
    """Batches of writes, and the hints for who missed one: as entries they are several times as long."""
    items = [
        (b"%06d" % number, bytes(value_bytes)) for number in range(min(60_000, 1 + 4_000_000 // (value_bytes + 1)))
    ]
    for batch in split([*items, (LONGEST_KEY, LARGEST.value)]):
        assert fits(Write(*HEAD, BIG, VERSION, batch, BIG))
        for page in pages([Entry(key, VERSION, value) for key, value in batch]):
            assert fits(Repair(*HEAD, page))


def test_what_would_never_fit_is_refused_when_it_is_written() -> None:
    """A key over 64 KiB (`KEY_BYTES_MAX`), a key and value over 768 KiB (`VALUE_BYTES_MAX`): nothing is written."""
    with pytest.raises(UsageError, match="key of 65537 bytes"):
        split([(LONGEST_KEY + b"k", b"")])
    with pytest.raises(UsageError, match="limit of 786432"):
        split([(LONGEST_KEY, (LARGEST.value or b"") + b"x")])
    assert len(split([(LONGEST_KEY, LARGEST.value)])) == 1


@pytest.mark.parametrize("value_bytes", [0, 1, 100, 5_000, 400_000])
def test_an_answer_to_a_read_has_the_first_that_fit_one_at_least(value_bytes: int) -> None:
    """The values go up to 512 KiB (`READ_BYTES_MAX`) together; a single one may be larger."""
    entries = [
        Entry(b"%05d" % number, VERSION, bytes(value_bytes)) for number in range(20_000 if value_bytes < 100 else 400)
    ]
    held = holding([LARGEST, *entries[:200], *entries[200:]])
    keys = [entry.key for entry in entries]
    for is_bare in (False, True):
        reply = answer_read(held, Read(*HEAD, BIG, keys, is_bare, 0, True))
        assert reply.is_complete
        found = reply.stamps if is_bare else reply.entries
        assert 0 < len(found) <= len(keys)
        assert fits(reply)
        if len(found) < len(keys):
            assert len(MESSAGES.encode(reply)) > READ_BYTES_MAX / 2
    first = answer_read(held, Read(*HEAD, BIG, [LONGEST_KEY, *keys], in_parts=True))
    assert [entry and entry.key for entry in first.entries] == [LONGEST_KEY]
    assert fits(first)


def test_a_reader_that_knows_no_parts_gets_all_or_no_data() -> None:
    """A node of an earlier version would take a short answer for a whole one."""
    entries = [Entry(b"%d" % number, VERSION, bytes(200_000)) for number in range(9)]
    held = holding(entries)
    some = answer_read(held, Read(*HEAD, BIG, [b"1", b"2"]))
    assert some.is_complete
    assert len(some.entries) == 2
    many = answer_read(held, Read(*HEAD, BIG, [entry.key for entry in entries]))
    assert not many.is_complete
    assert many.entries == []


def test_keys_of_reads_and_scans_fit() -> None:
    """The keys of one message go up to 256 KiB (`KEYS_BYTES_MAX`), one at least."""
    keys = [LONGEST_KEY[:-2] + b"%02d" % number for number in range(20)]
    held = holding([Entry(key, VERSION, b"") for key in keys])
    assert fits(Read(*HEAD, BIG, list(first_keys(keys)), True, BIG, True))
    assert 1 < len(first_keys(keys)) * KEY_BYTES_MAX <= KEYS_BYTES_MAX
    assert len(first_keys([bytes(KEYS_BYTES_MAX + 1), b"k"])) == 1
    assert fits(Scan(*HEAD, BIG, LONGEST_KEY, SCAN_KEYS_MAX))
    page = answer_scan(held, Scan(*HEAD, BIG, b"", SCAN_KEYS_MAX))
    assert page.has_more
    assert page.keys == keys[: len(page.keys)]
    assert fits(page)


def test_pages_of_a_pass_fit() -> None:
    """The largest entry beside the longest key that it follows."""
    leaves = bytes(range(hashtree.LEAF_COUNT))
    ask = LeafAsk(*HEAD, leaves, LONGEST_KEY[:-1] + b"a", True)
    assert fits(ask)
    entries, has_more = PullSource().page(
        holding([LARGEST, LARGEST.__class__(b"z", VERSION, bytes(700_000))]), NODE, ask
    )
    assert has_more
    assert fits(LeafPage(*HEAD, ask.after, True, entries, has_more))


def test_messages_of_one_turn_are_batched_below_a_frame() -> None:
    """Whatever the sizes, a batch of several stays below 512 KiB and what is larger goes alone."""
    rng = random.Random(1)
    parts = [bytes(rng.choice([1, 100, 10_000, 300_000, 800_000])) for _ in range(200)]
    cut = list(batches(parts))
    assert [part for batch in cut for part in batch] == parts
    for batch in cut:
        assert len(batch) == 1 or len(MESSAGES.encode(Batch(batch))) <= ITEMS_BYTES_MAX + 1_000
