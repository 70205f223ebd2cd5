"""The scenarios of handshake and gossip packet measure what they say; their time is nobody's business here."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from frys_node.bench import gossip_packet, handshake
from frys_node.bench.runner import SCENARIOS


def test_each_kind_of_handshake_is_mutual_and_its_bytes_are_counted(tmp_path: Path) -> None:
    """The gate behind it accepts both ends; ML-DSA-65 takes five times the bytes of Ed25519."""
    sizes = {}
    for kind, _budget in handshake.KINDS:
        shake = handshake._channel_shaker(handshake.make_ends(tmp_path / kind, kind))
        sizes[kind] = shake()
    assert 3_000 < sizes["ed25519"] < 5_000
    assert 18_000 < sizes["ml-dsa-65"] < 24_000


def test_the_peer_is_a_mutual_handshake_of_the_standard_library(tmp_path: Path) -> None:
    """Without a certificate of the same authority on the client's side it does not end."""
    ends, others = (handshake.make_ends(tmp_path / name, "ed25519") for name in ("a", "b"))
    client, server = handshake.stdlib_contexts(ends, tmp_path)
    assert handshake.shake_stdlib(client, server) > 1_000
    stranger, _ = handshake.stdlib_contexts(others, tmp_path)
    with pytest.raises(OSError, match="certificate"):
        handshake.shake_stdlib(stranger, server)


def test_both_echoes_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over our stream and over the standard library's, every payload comes back."""
    monkeypatch.setattr(handshake, "ECHOES", 20)
    ends = handshake.make_ends(tmp_path / "a", "ed25519")
    assert len(trio.run(handshake._echo_channel, ends)) == 20
    assert len(trio.run(handshake._echo_stdlib, handshake.stdlib_contexts(ends, tmp_path))) == 20


def test_no_replayed_packet_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every packet is opened once; all of them again, nothing is."""
    monkeypatch.setattr(gossip_packet, "PACKETS", 2_000)
    figures = {figure.name: figure for figure in gossip_packet.run(2)}
    replays = figures["replayed packets accepted"]
    assert (replays.ours, replays.peer) == (0, 4_000)
    assert {"handshake", "gossip-packet"} <= set(SCENARIOS)
