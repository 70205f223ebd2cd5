"""How a process becomes a node: what it advertises, what it keeps, and a directory that belongs elsewhere."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from frys_node.arrival import (
    GIVEN_PATH,
    KEPT_PATH,
    Launch,
    _token,
    advertised,
    advertised_to,
    check_seeds,
    given_to,
    keep_addresses,
    note_on_given,
    read_kept,
)
from frys_node.base.errors import ConfigError, CorruptData, UsageError
from frys_node.base.types import Address
from frys_node.config import load
from frys_node.observe.log import REDACTED, redact
from frys_node.secure.stored import read_stored
from frys_node.transport.disk import DirectoryDisk
from frys_node.transport.network import SystemNetwork
from tests.integration.channel.channel_rig import CLOCK, NETWORK, create, running

BOUND = Address("127.0.0.1", 7946)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("", BOUND),
        ("192.0.2.7", Address("192.0.2.7", 7946)),
        ("192.0.2.7:80", Address("192.0.2.7", 80)),
        ("[2001:db8::1]:80", Address("2001:db8::1", 80)),
        ("localhost:80", Address("127.0.0.1", 80)),
    ],
)
async def test_others_are_told_an_address_never_a_name(setting: str, told: Address) -> None:
    """Gossip goes to addresses: a member that advertised a name was suspected at every probe."""
    config = load(flags={"network.advertise": setting})
    assert await advertised(config, BOUND, SystemNetwork()) == told


@pytest.mark.parametrize(
    ("bound", "default", "issuer", "told"),
    [
        ("::", "192.0.2.5", "::1", "::1"),
        ("::", "192.0.2.5", "127.0.0.1", "192.0.2.5"),
        ("::", "127.0.0.1", "::1", "::1"),
        ("0.0.0.0", "192.0.2.5", "127.0.0.1", "192.0.2.5"),
        ("0.0.0.0", "192.0.2.5", "::1", "192.0.2.5"),
        ("0.0.0.0", "192.0.2.5", "no-literal", "192.0.2.5"),
        ("::1", "::1", "127.0.0.1", "::1"),
    ],
)
def test_a_wildcard_is_told_as_where_the_issuer_reaches_it(bound: str, default: str, issuer: str, told: str) -> None:
    """The default route's address stays where loopback would mean nothing to others; what is bound or set is told."""
    at, other, peer = Address(bound, 7946), Address(default, 7946), Address(issuer, 9)
    assert advertised_to(load(), at, other, peer) == Address(told, 7946)
    chosen = load(flags={"network.advertise": default})
    assert advertised_to(chosen, at, other, peer) == other


async def test_a_name_without_an_address_is_refused_at_the_start() -> None:
    """The error names the key and the name."""
    config = load(flags={"network.advertise": "no-such-host.invalid:1"})
    with pytest.raises(ConfigError, match=r"network\.advertise.*no-such-host\.invalid"):
        await advertised(config, BOUND, SystemNetwork())


def test_chosen_addresses_are_kept_on_disk_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    """Nothing is written while nobody chose anything; a file that cannot be read stops the start with its path."""
    disk = DirectoryDisk(tmp_path)
    keep_addresses(disk, load())
    assert read_kept(tmp_path) == read_kept(None) == {}
    keep_addresses(disk, load(flags={"network.bind": "127.0.0.1:9000"}))
    assert read_kept(tmp_path) == {"network.bind": "127.0.0.1:9000"}
    (tmp_path / KEPT_PATH).write_text("{")
    with pytest.raises(CorruptData, match=KEPT_PATH):
        read_kept(tmp_path)


def test_a_start_notes_what_the_last_one_was_given_and_this_one_is_not(tmp_path: Path) -> None:
    """Workflows and the Redis port, by key and origin without a value; not addresses, which are kept."""
    disk = DirectoryDisk(tmp_path)
    flags = {"plugins.workflow.files": '["/flows.py"]', "network.bind": "127.0.0.1:9000", "system.name": "a"}
    given = given_to(load(flags=flags, environ={"FRYS_PLUGINS_CACHE_RESP": "127.0.0.1:6379"}))
    assert note_on_given(disk, given) == []
    disk.write(GIVEN_PATH, msgspec.json.encode(given))
    assert note_on_given(disk, given) == []
    (note,) = note_on_given(disk, given_to(load().keeping({"network.bind": "127.0.0.1:9000"})))
    assert note.endswith(": plugins.cache.resp (env FRYS_PLUGINS_CACHE_RESP), plugins.workflow.files (flag)")


@pytest.mark.parametrize("data", [b"{", b"", b"[]", b'{"a": 1}', b'{"a": "\xff"}'])
def test_a_damaged_note_on_settings_keeps_no_node_from_starting(tmp_path: Path, data: bytes) -> None:
    """It says nothing that is needed; a path that is no UTF-8 can be written down as well."""
    disk = DirectoryDisk(tmp_path)
    disk.write(GIVEN_PATH, data)
    assert note_on_given(disk, {}) == []
    config = load(flags={"plugins.cache.resp": ""})
    config.origins["plugins.cache.resp"] = "file caf\udce9.toml"
    assert msgspec.json.encode(given_to(config)) == b'{"plugins.cache.resp":"file caf\\\\udce9.toml"}'


async def test_a_directory_is_joined_again_if_one_seed_is_of_its_cluster(tmp_path: Path) -> None:
    """All seeds are asked: the order does not matter, a dead one neither refuses nor allows; both sides are named."""
    old, other = await create(tmp_path / "old", "old"), await create(tmp_path / "new", "new")
    stored = read_stored(old.disk)
    assert stored is not None
    mine, foreign = str(old.address), str(other.address)
    async with running(other):
        async with running(old):
            await check_seeds([foreign, mine], old.disk.root, stored, NETWORK, CLOCK)
        await check_seeds([mine], old.disk.root, stored, NETWORK, CLOCK)
        with pytest.raises(UsageError, match=f"is node 'old' of cluster 'test', and {foreign} belongs to another"):
            await check_seeds([mine, foreign], old.disk.root, stored, NETWORK, CLOCK)


async def test_a_join_token_is_never_written_once_it_was_read() -> None:
    """Whoever logs or reports it, a library too, shows a placeholder."""
    token = "frys0." + "planted-secret-" * 2
    launch = Launch(
        config=load(),
        name="a",
        name_chosen=True,
        data_dir=None,
        seeds=(),
        joining=True,
        token_file="-",
        token_text=token,
        reload=load,
        on_ready=lambda _report: None,
    )
    assert await _token(launch, NETWORK, CLOCK) == token
    assert redact(f"refused: {token}") == f"refused: {REDACTED}"
