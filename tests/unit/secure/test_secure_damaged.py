"""Files of the identity that a broken disk left behind: each is told as damaged, however it is damaged."""

from __future__ import annotations

import msgspec
import pytest

from frys_node.base.errors import CorruptData
from frys_node.channel.bootstrap import create_cluster
from frys_node.secure.identity import load_identity
from frys_node.secure.local import parse_nodes
from frys_node.secure.stored import IDENTITY_PATH
from frys_node.secure.token import TokenTable
from frys_node.testing.disk import FakeDisk
from frys_node.transport.clock import SystemClock
from frys_node.transport.entropy import SystemEntropy
from frys_node.trust.names import NameRegistry

DAMAGES = ("not UTF-8", "not JSON", "too deep")


def damage_of(damage: str, data: bytes, value: bytes) -> bytes:
    """Return the file damaged; `value` is the text of one of its strings."""
    assert value in data
    if damage == "not UTF-8":
        return data.replace(value, b"\xff" + value[1:])
    return data[: len(data) // 2] if damage == "not JSON" else b'{"zzz":' * 20_000 + data


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_of_tokens_is_told_and_the_table_unchanged(damage: str) -> None:
    """Found by fuzzing: a byte that is no UTF-8 was a traceback."""
    table = TokenTable("prod", "c" * 32)
    table.create(bytes(36), ttl_s=60, uses=1, now_unix_s=1)
    before = table.encode()
    with pytest.raises(CorruptData, match="token table"):
        table.restore(damage_of(damage, before, b"node"))
    assert table.encode() == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_registry_of_names_is_told(damage: str) -> None:
    """The issuer's names."""
    names = NameRegistry()
    with pytest.raises(CorruptData, match="is damaged"):
        names.restore(damage_of(damage, b'{"node-1": "' + b"a" * 32 + b'"}', b"a" * 32))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_identity_is_told_and_left_as_it_is(damage: str) -> None:
    """Nobody loses a key to a repair that nobody asked for."""
    disk = FakeDisk()
    create_cluster(disk, SystemEntropy(), SystemClock(), cluster_name="c", node_name="whole-name")
    damaged = damage_of(damage, disk.read(IDENTITY_PATH) or b"", b"whole-name")
    disk.write(IDENTITY_PATH, damaged)
    with pytest.raises(CorruptData, match="damaged"):
        load_identity(disk)
    assert disk.read(IDENTITY_PATH) == damaged


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_list_of_local_nodes_is_empty(damage: str) -> None:
    """It is a convenience: commands then want to be told which node."""
    stored = msgspec.json.encode({"version": 1, "nodes": [{"data_dir": "/data/1"}]})
    assert parse_nodes(damage_of(damage, stored, b"/data/1")) == ()
