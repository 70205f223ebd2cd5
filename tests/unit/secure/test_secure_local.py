"""This user's nodes on this machine, and where `join` looks for a token."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.errors import ConfigError
from frys_node.secure import local
from frys_node.secure.errors import InvalidToken, TokenMissing
from frys_node.secure.local import (
    LocalNode,
    find_token,
    parse_nodes,
    read_nodes,
    register_node,
    registry_path,
    update_nodes,
)
from frys_node.secure.token import format_token

CA_HASH = "ab" * 16


def _token(mark: str, ca_hash: str = CA_HASH) -> str:
    return format_token("prod", ca_hash, "0badcafe", mark.encode().ljust(32, b"."))


def _node(directory: str, started: int = 1, ca_hash: str = CA_HASH) -> LocalNode:
    return LocalNode(
        data_dir=directory, name="n", cluster="prod", ca_hash=ca_hash, address="h:1", started_unix_ns=started
    )


def _find(home: Path, **how: object) -> local.FoundToken:
    arguments: dict[str, object] = {"token_file": None, "environment": {}, "home": home, "ca_hash": CA_HASH}
    return find_token(**(arguments | how))  # type: ignore[arg-type]


def test_places_are_tried_in_order(tmp_path: Path) -> None:
    """Flag, environment, configuration, own nodes: each is taken when those before it are absent."""
    with pytest.raises(TokenMissing) as caught:
        _find(tmp_path)
    assert "token create" in caught.value.hint
    data = tmp_path / "data"
    data.mkdir()
    (data / "join-token").write_text(_token("own") + "\n")
    register_node(registry_path({}, tmp_path), _node(str(data)))
    assert _find(tmp_path).text == _token("own")
    assert str(data) in _find(tmp_path).source
    (tmp_path / ".config" / "frys").mkdir(parents=True)
    (tmp_path / ".config" / "frys" / "token").write_text(_token("config"))
    assert _find(tmp_path).text == _token("config")
    environment = {"FRYS_TOKEN": _token("environment")}
    assert _find(tmp_path, environment=environment).source == "FRYS_TOKEN"
    (tmp_path / "file").write_text(f"  {_token('file')}\n")
    assert _find(tmp_path, environment=environment, token_file=str(tmp_path / "file")).text == _token("file")
    found = _find(tmp_path, environment=environment, token_file="-", read_stdin=lambda: _token("stdin") + "\n")
    assert found == (_token("stdin"), "standard input")


def test_a_flag_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    """A named file that is missing is not silently passed over; nor is one that holds something else."""
    with pytest.raises(TokenMissing, match="cannot read"):
        _find(tmp_path, environment={"FRYS_TOKEN": _token("x")}, token_file=str(tmp_path / "none"))
    with pytest.raises(InvalidToken):
        _find(tmp_path, environment={"FRYS_TOKEN": "nonsense"})


def test_only_a_node_of_the_seeds_authority_gives_its_token(tmp_path: Path) -> None:
    """Nodes of another cluster, and members without a join token, are passed over; what a token pins is what counts."""
    for name in ("other", "member", "issuer"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "join-token").write_text(_token("other", "cd" * 16))
    (tmp_path / "issuer" / "join-token").write_text(_token("issuer"))
    path = registry_path({}, tmp_path)
    register_node(path, _node(str(tmp_path / "issuer"), 1))
    register_node(path, _node(str(tmp_path / "member"), 2))
    register_node(path, _node(str(tmp_path / "other"), 3, "cd" * 16))
    assert _find(tmp_path).text == _token("issuer")
    # An authority that follows another renews the token, not the list of nodes.
    (tmp_path / "issuer" / "join-token").write_text(_token("renewed", "ef" * 16))
    assert _find(tmp_path, ca_hash="ef" * 16).text == _token("renewed", "ef" * 16)
    with pytest.raises(TokenMissing):
        _find(tmp_path, ca_hash=None)
    with pytest.raises(TokenMissing):
        _find(tmp_path, ca_hash="ee" * 16)


def test_the_registry_keeps_each_directory_once_and_is_bounded() -> None:
    """The latest started comes first; a directory started again replaces itself; the oldest fall out."""
    nodes: tuple[LocalNode, ...] = ()
    for number in range(local.NODES_MAX + 10):
        nodes = update_nodes(nodes, _node(f"/d/{number}", number))
    nodes = update_nodes(nodes, _node("/d/100", 10_000))
    assert len(nodes) == local.NODES_MAX
    assert nodes[0].data_dir == "/d/100"
    assert len({node.data_dir for node in nodes}) == local.NODES_MAX


@given(st.binary(max_size=100))
def test_a_damaged_registry_is_empty(data: bytes) -> None:
    """The registry is a convenience: damage costs the look-up, never an error."""
    assert parse_nodes(data) == ()


def test_a_registry_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """The node can run without it; the caller decides."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        register_node(tmp_path / "file" / "frys" / "nodes.json", _node("/d"))
    assert read_nodes(tmp_path / "file" / "frys" / "nodes.json") == ()
    assert registry_path({"XDG_STATE_HOME": "/x"}, tmp_path) == Path("/x/frys/nodes.json")


async def test_nodes_that_register_at_the_same_time_are_all_listed(tmp_path: Path) -> None:
    """The lock keeps concurrent starts from overwriting one another; the file is the user's alone."""
    path = registry_path({}, tmp_path)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(trio.to_thread.run_sync, register_node, path, _node(f"/d/{number}", number))
    assert len(read_nodes(path)) == 20
    assert path.stat().st_mode & 0o777 == 0o600
