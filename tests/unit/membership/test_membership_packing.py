"""Compressed packets and state exchanges: smaller on the wire, bounded when expanded."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from membership_hands import B, C, address, claim, hear, machine, sent

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import NodeId
from membership.config import for_profile
from membership.driver_exchange import PUSH_PULL
from membership.effects import SendPacket
from membership.messages import PACKET_PLAIN_BYTES_MAX, PACKETS, Gossip, Ping, Sync
from membership.packing import MARK, pack, unpack

MANY = tuple(claim(NodeId(f"{index:032x}")) for index in range(300))


@given(st.binary(max_size=2_000), st.integers(0, 2_000))
def test_whatever_is_packed_is_unpacked(data: bytes, above_bytes: int) -> None:
    """Both forms are read, and packing never makes anything longer."""
    data = b"\x92" + data
    packed = pack(data, above_bytes)
    assert len(packed) <= len(data)
    assert unpack(packed, 4_000) == data


@given(st.binary(max_size=200))
def test_junk_behind_the_mark_is_malformed_or_plain(data: bytes) -> None:
    """No bytes make the reader raise anything but its own error."""
    try:
        unpack(MARK + data, 4_000)
    except MalformedFrame:
        return
    assert zlib.decompress(data)


def test_a_bomb_is_refused_before_it_is_expanded() -> None:
    """A megabyte of zeros in a packet of a thousand bytes is a counted drop."""
    bomb = MARK + zlib.compress(b"\x00" * 1_000_000, 9)
    assert len(bomb) < 1_200
    with pytest.raises(MalformedFrame, match=f"over {PACKET_PLAIN_BYTES_MAX} bytes"):
        PACKETS.decode(bomb)
    m = machine(B)
    m.receive(bomb, B, address(B), 0.1, source_boot=5)
    assert m.tallies.dropped == {("malformed",): 1}


def test_a_tail_or_an_end_too_early_is_refused() -> None:
    """What comes after the stream is no message, and half a stream is none either."""
    packed = MARK + zlib.compress(b"x" * 1_000)
    for wrong in (packed + b"y", packed[:-3]):
        with pytest.raises(MalformedFrame):
            unpack(wrong, 2_000)


def test_long_packets_go_out_compressed_and_short_ones_plain() -> None:
    """News about many members takes half of the bytes; `compress_above_bytes = 0` turns it off."""
    sizes = {}
    for above_bytes in (0, 512):
        m = machine(config=for_profile("lan", compress_above_bytes=above_bytes))
        m.merge_sync(Sync(MANY[:40]), B, 0.0)
        (effect,) = [e for e in hear(m, Ping(1, NodeId("")), B) if isinstance(e, SendPacket)]
        sizes[above_bytes] = len(effect.payload)
        ((_, ack),) = sent([effect])
        assert len(ack.updates) > 5
    assert sizes[512] < 0.7 * sizes[0]
    m = machine(B, C)
    hear(m, Gossip((claim(C, incarnation=1),)))
    assert all(not e.payload.startswith(MARK) for e in m.advance(m.next_deadline_s) if isinstance(e, SendPacket))


def test_state_exchanges_are_compressed_and_bounded() -> None:
    """A table of 300 takes under half of its bytes; an expanded piece over a megabyte is refused."""
    piece = Sync(MANY)
    packed = PUSH_PULL.request.encode(piece)
    assert packed.startswith(MARK)
    assert PUSH_PULL.reply.decode(packed) == piece
    assert PUSH_PULL.request.decode(PACKETS_SYNC) == Sync(())
    with pytest.raises(MalformedFrame, match="over 1048576 bytes"):
        PUSH_PULL.request.decode(MARK + zlib.compress(b"\x00" * (2 << 20)))


PACKETS_SYNC = PUSH_PULL.request.encode(Sync(()))
"""A short one travels as it is."""
