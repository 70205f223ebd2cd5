"""Small parts of the Redis front: patterns, the map of slots, INFO, packed values, changes that make no sense."""

from __future__ import annotations

import fnmatch
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frys_node.base.types import Address, NodeId, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.plugins.cache.cache import CacheValue, decode_value, pack, pack_plain, plain_body
from frys_node.plugins.cache.changes import Cell, Change, apply, parse_integer
from frys_node.plugins.cache.config import CacheConfig
from frys_node.plugins.cache.memory import CacheMemory
from frys_node.plugins.cache.resp import about
from frys_node.plugins.cache.resp.client import REDIS_VERSION
from frys_node.plugins.cache.resp.glob import matches
from frys_node.plugins.cache.resp.session import Limits, Session, Surroundings
from frys_node.plugins.cache.resp.slots import Server, ranges
from frys_node.plugins.cache.resp.table import COMMANDS


@pytest.mark.parametrize(
    ("pattern", "text", "is_match"),
    [
        (b"", b"", True),
        (b"*", b"", True),
        (b"h?llo", b"hello", True),
        (b"h?llo", b"hllo", False),
        (b"h*llo", b"heeeello", True),
        (b"h[ae]llo", b"hallo", True),
        (b"h[^e]llo", b"hello", False),
        (b"h[a-b]llo", b"hbllo", True),
        (b"h[b-a]llo", b"hallo", True),
        (rb"h\[llo", b"h[llo", True),
        (rb"h[\]]llo", b"h]llo", True),
        (b"h[a", b"ha", True),
        (rb"a\*", b"a*", True),
        (rb"a\*", b"ab", False),
        (b"**a**", b"xxaxx", True),
        (b"a\\", b"a\\", True),
    ],
)
def test_patterns_are_those_of_redis(pattern: bytes, text: bytes, *, is_match: bool) -> None:
    """Stars, question marks, sets, ranges, inverses, escapes, and sets that nobody closed."""
    assert matches(pattern, text) is is_match


@settings(deadline=None)
@given(st.text("ab*?", max_size=8), st.text("ab", max_size=10))
def test_patterns_without_sets_match_as_those_of_shells(pattern: str, text: str) -> None:
    """Against the standard library."""
    assert matches(pattern.encode(), text.encode()) == bool(re.match(fnmatch.translate(pattern), text))


def test_a_hostile_pattern_takes_no_longer_than_its_length_times_the_text() -> None:
    """What makes a regular expression explode."""
    assert not matches(b"*a" * 50 + b"b", b"a" * 2_000)


@settings(deadline=None)
@given(st.integers(1, 16_384), st.data())
def test_every_slot_belongs_to_the_unit_of_its_keys(partitions: int, data: st.DataObject) -> None:
    """The ranges cover all slots without gaps and agree with how keys find their unit."""
    servers = [Server(NodeId(str(number)), Address("h", number), is_up=True) for number in range(3)]
    choices = data.draw(st.lists(st.sampled_from(servers), min_size=1, max_size=20))
    sets = [(choices[number % len(choices)],) for number in range(partitions)]
    found = ranges(sets)
    assert (found[0].first, found[-1].last) == (0, 16_383)
    assert all(left.last + 1 == right.first for left, right in pairwise(found))
    slot = data.draw(st.integers(0, 16_383))
    (part,) = [part for part in found if part.first <= slot <= part.last]
    assert part.servers == sets[slot * partitions // 16_384]


@settings(deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([0, 1, 1 << 41]),
    st.one_of(st.none(), st.dictionaries(st.binary(max_size=4), st.binary(max_size=260), max_size=2)),
)
def test_what_is_packed_by_hand_is_what_the_codec_packs(
    body: bytes, expires_unix_ms: int, fields: dict[bytes, bytes] | None
) -> None:
    """And what is read by hand is what the codec reads: a string without an end or a type of its own, nothing else."""
    value = CacheValue(expires_unix_ms, "application/octet-stream", body, fields)
    assert pack_plain(body, expires_unix_ms) == pack(CacheValue(expires_unix_ms, "application/octet-stream", body))
    plain = plain_body(pack(value))
    assert plain == (body if not expires_unix_ms and fields is None and len(body) <= 255 else None)
    assert decode_value(pack(value)) == value


def test_values_of_the_first_release_are_still_read() -> None:
    """Three fields, as nodes without hashes pack them; and those read ours, since they skip what comes after."""
    first = bytes.fromhex("93cd03e8aa746578742f706c61696ec40568656c6c6f")
    assert decode_value(first) == CacheValue(1_000, "text/plain", b"hello")
    ours = pack(CacheValue(1_000, "text/plain", b"hello"))
    assert ours == bytes.fromhex("94cd03e8aa746578742f706c61696ec40568656c6c6fc0")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0), (b"-1", -1), (b"9223372036854775807", (1 << 63) - 1), (b"-9223372036854775808", -(1 << 63)),
        (b"9223372036854775808", None), (b"", None), (b"+1", None), (b"01", None), (b"-0", None), (b" 1", None),
        (b"1.0", None), (b"--1", None), (b"-", None), (b"1" * 30, None), ("\u0663".encode(), None),
    ],
)  # fmt: skip
def test_numbers_are_read_as_redis_reads_them(text: bytes, number: int | None) -> None:
    """Signed, 64 bits, in one way only."""
    assert parse_integer(text) == number


def test_a_change_of_another_version_is_refused_and_changes_nothing() -> None:
    """An operation that this node does not know, or with arguments that it does not take, is an answer, not a crash."""
    cell = Cell(CacheValue(0, "", b"5"), "v1", 0, 100)
    assert "does not know" in apply(cell, Change(b"k", "explode")).refusal
    assert "does not take" in apply(cell, Change(b"k", "incr", [1, 2, 3])).refusal
    assert "does not take" in apply(cell, Change(b"k", "append", [1])).refusal
    assert not cell.is_changed
    assert apply(cell, Change(b"k", "append", [b"x" * 100])).refusal.startswith("ERR string exceeds")
    assert not cell.is_changed


def test_info_and_config_speak_of_what_tools_look_for() -> None:
    """Sections on demand; sizes and policies by Redis' names."""
    config = CacheConfig(memory_bytes_max=100_000)
    facts = about.Facts("1", "n" * 32, 6_379, 90_000, 1, 2, 3, 4, 5, 6, 7, 8, {0: (9, 0, 0)}, 10, 11, config)
    text = about.info(facts, [])
    for line in ("redis_version:" + REDIS_VERSION, "keyspace_hits:4", "evicted_keys:6", "cluster_enabled:1"):
        assert f"\n{line}\r\n" in text
    assert about.info(facts, [b"memory"]).splitlines()[0] == "# Memory"
    assert about.info(facts, [b"nothing"]) == ""
    assert about.settings(config, 1)["maxmemory"] == "100000"


def test_info_counts_values_by_database_and_nothing_else() -> None:
    """Neither tombstones nor namespaces that no database stands for; a database without keys is not named."""
    now_unix_ms = 1_000
    memory = CacheMemory(1 << 20, lambda: now_unix_ms)
    unit = memory.open(UnitId("cache/0"))
    for number, (key, end) in enumerate([("default\0a", 0), ("db3\0b", 3_000), ("db3\0c", 0), ("other\0d", 0)]):
        version = Version(number + 1, 0, NodeId("n"), 1)
        unit.put([Entry(key.encode(), version, pack(CacheValue(end, "", b"x")))])
    unit.put([Entry(b"default\0a", Version(9, 0, NodeId("n"), 1), None)])
    assert about.databases(memory.census.counts, now_unix_ms) == {3: (2, 1, 2_000)}
    config = CacheConfig()
    found = about.databases(memory.census.counts, now_unix_ms)
    facts = about.Facts("1", "n" * 32, 6_379, 90_000, 1, 2, 3, 4, 5, 6, 7, 8, found, 10, 11, config)
    assert about.info(facts, [b"keyspace"]) == "# Keyspace\r\ndb3:keys=2,expires=1,avg_ttl=2000\r\n"


def test_client_list_names_those_that_are_asked_for() -> None:
    """By number, or by what they do; nobody here is a replica."""
    around = Surroundings(
        commands={},
        limits=lambda: Limits(9, 9, 9, 9),
        now_unix_ms=lambda: 0,
        authenticate=lambda _token: None,
        is_valid=lambda _principal: True,
        redirect=lambda _key: None,
        settings=dict,
        describe=lambda _session: "",
    )
    plain, listening = Session(1, around, must_authenticate=False), Session(2, around, must_authenticate=False)
    listening.channels[b"news"] = None
    for words, expected in (
        ([], [True, True]),
        ([b"TYPE", b"NORMAL"], [True, False]),
        ([b"TYPE", b"PUBSUB"], [False, True]),
        ([b"TYPE", b"REPLICA"], [False, False]),
        ([b"ID", b"2", b"7"], [False, True]),
    ):
        assert [about.is_wanted(session, words) for session in (plain, listening)] == expected


def test_every_command_of_the_table_is_in_the_document_and_the_other_way_round() -> None:
    """docs/cache.md lists what is served, by name."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "cache.md").read_text()
    table = text[text.index("<!-- commands -->") : text.index("<!-- end of commands -->")]
    table = re.sub(r"\([^)]*\)", "", table)
    named = {word.encode() for word in re.findall(r"`([A-Z]+)[^`]*`", table)}
    assert named == set(COMMANDS)
