"""Sealed gossip packets: replay, boots, keyrings, limits and the golden packet."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.errors import CorruptData, NotReady, SecurityError
from frys_node.base.types import BootId, NodeId
from frys_node.secure import packet as packets
from frys_node.secure.errors import CounterExhausted
from frys_node.secure.keyring import EPOCH_MAX, EpochKey, Keyring
from frys_node.secure.packet import OVERHEAD_BYTES, SHORT_OVERHEAD_BYTES, PacketSealer, subkey
from frys_node.secure.replay import WINDOW_COUNTERS, ReplayWindow

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "gossip-packet-1.bin"
A, B = NodeId("0a" * 16), NodeId("0b" * 16)


def _ring(*epochs: int) -> Keyring:
    return Keyring(EpochKey(epoch, bytes([epoch]) * 32) for epoch in epochs)


def _pair() -> tuple[PacketSealer, PacketSealer]:
    return PacketSealer(_ring(1), A, BootId(1 << 32)), PacketSealer(_ring(1), B, BootId(1 << 32))


def test_a_sealed_packet_opens_once_and_costs_52_bytes() -> None:
    """The payload arrives with sender and boot; the same packet again is a replay."""
    a, b = _pair()
    sealed = a.seal(b"hello")
    assert len(sealed) == len(b"hello") + OVERHEAD_BYTES == len(b"hello") + 52
    assert b.open(sealed, 0.0) == (A, 1 << 32, b"hello", False)
    assert b.open(sealed, 0.0) is None
    assert b.drops == {"replay": 1}


def test_the_golden_packet_opens_forever() -> None:
    """The first version's bytes, as they were sealed on the day of the first commit."""
    sealed = PacketSealer(_ring(1), A, BootId(7)).seal(b"golden gossip")
    assert GOLDEN.read_bytes() == sealed
    assert PacketSealer(_ring(1), B, BootId(1)).open(GOLDEN.read_bytes(), 0.0) == (A, 7, b"golden gossip", False)


def test_the_golden_short_packet_opens_forever() -> None:
    """The short header's first bytes, behind the long packet that introduces its sender."""
    a, b = PacketSealer(_ring(1), A, BootId(7)), PacketSealer(_ring(1), B, BootId(1))
    b.open(a.seal(b""), 0.0)
    golden = GOLDEN.with_name("gossip-packet-short-1.bin").read_bytes()
    assert a.seal(b"golden gossip", is_short=True) == golden
    assert b.open(golden, 0.0) == (A, 7, b"golden gossip", True)


def test_the_subkey_is_hkdf_expand() -> None:
    """The one-block shortcut equals the library's HKDF-Expand-SHA384."""
    key, sender = EpochKey(3, b"k" * 32), bytes.fromhex(A)
    info = b"frys gossip v1" + sender + (9).to_bytes(8, "big")
    assert subkey(key, sender, 9) == HKDFExpand(SHA384(), 32, info).derive(key.key)


def test_every_flipped_bit_is_refused() -> None:
    """All one-bit mutants of a packet, header included, are dropped and change nothing."""
    a, b = _pair()
    sealed = a.seal(b"x" * 20)
    for bit in range(8 * len(sealed)):
        mutant = bytearray(sealed)
        mutant[bit // 8] ^= 1 << bit % 8
        assert b.open(bytes(mutant), float(bit)) is None
    assert b.open(sealed, 1e6) is not None


@given(st.binary(max_size=200))
def test_random_bytes_are_dropped(data: bytes) -> None:
    """Nothing but a counted drop comes of noise, with the right start or without."""
    _, b = _pair()
    assert b.open(data, 0.0) is None
    assert b.open(b"FG\x01\x01" + data, 0.0) is None
    assert sum(b.drops.values()) == 2


@given(st.lists(st.one_of(st.integers(0, 40), st.integers(0, 5_000)), max_size=200))
def test_the_replay_window_equals_a_set(counters: list[int]) -> None:
    """Against a set of everything seen: new means not seen and less than a window behind the highest."""
    window, seen = ReplayWindow(), set[int]()
    for counter in counters:
        wanted = counter not in seen and counter > max(seen, default=-1) - WINDOW_COUNTERS
        assert window.is_new(counter) is wanted
        if wanted:
            window.add(counter)
            seen.add(counter)


@given(st.randoms(use_true_random=False))
def test_reordered_packets_all_arrive_exactly_once(rng: object) -> None:
    """Any order within the window, each packet sent twice: each payload arrives once."""
    a, b = _pair()
    sent = [a.seal(bytes([number])) for number in range(100)] * 2
    rng.shuffle(sent)  # type: ignore[attr-defined]
    opened = [packet.payload for packet in (b.open(sealed, 0.0) for sealed in sent) if packet is not None]
    assert sorted(opened) == [bytes([number]) for number in range(100)]


def test_packets_of_an_older_boot_are_stale() -> None:
    """Once a newer boot was heard, or met in TLS, nothing of an older one passes."""
    _, b = _pair()
    old, new = PacketSealer(_ring(1), A, BootId(5)), PacketSealer(_ring(1), A, BootId(6))
    kept = old.seal(b"old")
    assert b.open(old.seal(b"1"), 0.0) is not None
    assert b.open(new.seal(b"2"), 0.0) is not None
    assert b.open(kept, 0.0) is None
    b.note_boot(A, BootId(8))
    assert b.open(new.seal(b"3"), 0.0) is None
    assert b.drops == {"stale_boot": 2}
    b.note_boot(A, BootId(2))
    assert b.open(PacketSealer(_ring(1), A, BootId(8)).seal(b"4"), 0.0) is not None


def test_a_forged_boot_does_not_lock_the_real_sender_out() -> None:
    """A header with a huge boot but no key changes nothing."""
    a, b = _pair()
    forged = bytearray(a.seal(b"x"))
    forged[20:28] = b"\xff" * 8
    assert b.open(bytes(forged), 0.0) is None
    assert b.open(a.seal(b"y"), 0.0) is not None


FORGED = BootId((1 << 64) - 1)


def test_a_boot_that_a_member_forged_mutes_nobody_who_was_met_in_tls() -> None:
    """Both forms of the true boot's packets still open, and each opens once; the forged one is heard beside it."""
    ring = _ring(1)
    a, b, evil = (PacketSealer(ring, node, boot) for node, boot in ((A, BootId(7)), (B, BootId(1)), (A, FORGED)))
    b.note_boot(A, BootId(7))
    before = a.seal(b"before")
    assert b.open(before, 0.0) is not None
    assert b.open(evil.seal(b"forged"), 0.0) is not None
    assert b.open(before, 0.0) is None
    assert b.open(a.seal(b"long"), 0.0) == (A, 7, b"long", False)
    assert b.open(a.seal(b"short", is_short=True), 0.0) == (A, 7, b"short", True)
    assert b.open(evil.seal(b"short", is_short=True), 0.0) == (A, FORGED, b"short", True)
    # A restart below the forged boot: the meeting in TLS settles it, for either form.
    again = PacketSealer(ring, A, BootId(8))
    b.note_boot(A, BootId(8))
    assert b.open(again.seal(b"again"), 0.0) == (A, 8, b"again", False)
    assert b.open(again.seal(b"again", is_short=True), 0.0) == (A, 8, b"again", True)
    assert b.open(a.seal(b"old"), 0.0) is None
    b.note_boot(A, BootId(7))
    assert b.open(a.seal(b"old"), 0.0) is None


def test_a_restarted_member_is_heard_at_once_and_proven_by_its_meeting() -> None:
    """Its packets come before the meeting in TLS, which forgets nothing of what was seen."""
    _, b = _pair()
    old, new = PacketSealer(_ring(1), A, BootId(7)), PacketSealer(_ring(1), A, BootId(8))
    b.note_boot(A, BootId(7))
    b.open(old.seal(b"1"), 0.0)
    first = new.seal(b"2")
    assert b.open(first, 0.0) == (A, 8, b"2", False)
    assert b.open(new.seal(b"3", is_short=True), 0.0) == (A, 8, b"3", True)
    b.note_boot(A, BootId(8))
    assert b.open(first, 0.0) is None
    assert b.open(old.seal(b"4"), 0.0) is None
    assert b.open(old.seal(b"5", is_short=True), 0.0) is None
    assert b.drops == {"replay": 1, "stale_boot": 1, "tag": 1}
    assert b.open(new.seal(b"6", is_short=True), 0.0) == (A, 8, b"6", True)


def test_a_sender_never_met_asks_for_a_meeting_where_a_higher_boot_was_forged() -> None:
    """Only a packet that verifies asks, once a second; the meeting makes the true boot count."""
    ring, doubted = _ring(1), list[NodeId]()
    a, b, evil = (PacketSealer(ring, node, boot) for node, boot in ((A, BootId(7)), (B, BootId(1)), (A, FORGED)))
    b.on_doubt = doubted.append
    assert b.open(evil.seal(b"forged"), 0.0) is not None
    junk = bytearray(a.seal(b"x"))
    junk[-1] ^= 1
    assert b.open(bytes(junk), 0.0) is None
    assert doubted == []
    for now_s in (1.0, 1.5, 2.0):
        assert b.open(a.seal(b"x"), now_s) is None
    assert doubted == [A, A]
    b.note_boot(A, BootId(7))
    assert b.open(a.seal(b"heard"), 2.0) == (A, 7, b"heard", False)


def test_what_an_expelled_node_forged_ends_with_the_keys_it_knew() -> None:
    """Rotation and retirement are enough: nothing was heard of the forged boot under the key that is left."""
    ring = _ring(1)
    a, b, evil = (PacketSealer(ring, node, boot) for node, boot in ((A, BootId(7)), (B, BootId(1)), (A, FORGED)))
    assert b.open(evil.seal(b"forged"), 0.0) is not None
    ring.merge((EpochKey(2, b"2" * 32, 0, 1),))
    ring.promote()
    assert b.open(a.seal(b"x"), 0.0) is None
    assert ring.retire()
    assert b.open(a.seal(b"heard"), 0.0) == (A, 7, b"heard", False)
    assert b.open(PacketSealer(ring, A, BootId(6)).seal(b"old"), 0.0) is None


def test_rotation_keeps_three_epochs_and_no_more() -> None:
    """A packet of the epoch before still opens; one of a dropped epoch does not, though its key was derived before."""
    ring_a, ring_b = _ring(1), _ring(1)
    a, b = PacketSealer(ring_a, A, BootId(1)), PacketSealer(ring_b, B, BootId(1))
    first = [a.seal(b"1"), a.seal(b"1")]
    assert b.open(first[0], 0.0) is not None
    for epoch in (2, 3):
        ring_b.merge((EpochKey(epoch, bytes([epoch]) * 32),))
    assert b.open(first[1], 0.0) is not None
    late = a.seal(b"late")
    ring_b.merge((EpochKey(4, b"4" * 32),))
    assert [key.epoch for key in ring_b.keys] == [4, 3, 2]
    assert b.open(late, 0.0) is None
    assert b.drops == {"unknown_key": 1}
    ring_a.merge(ring_b.keys)
    assert b.open(a.seal(b"new"), 0.0) is not None


def test_unknown_senders_are_derived_at_a_bounded_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of made-up senders is cut off; known ones and those met in TLS go on; a second later others may too."""
    monkeypatch.setattr(packets, "DERIVATIONS_PER_S", 10)
    a = PacketSealer(_ring(1), A, BootId(1))
    b = PacketSealer(_ring(1), B, BootId(1))
    b.open(a.seal(b"known"), 0.0)
    met, late = NodeId("0c" * 16), NodeId("0d" * 16)
    b.note_boot(met, BootId(1))
    for number in range(50):
        b.open(b"FG\x01\x01" + number.to_bytes(16, "big") + bytes(40), 0.0)
    assert b.drops == {"tag": 9, "rate": 41}
    assert len(b._senders) == 2
    assert b.open(a.seal(b"x"), 0.0) is not None
    assert b.open(PacketSealer(_ring(1), met, BootId(1)).seal(b"x"), 0.0) is not None
    sealed = PacketSealer(_ring(1), late, BootId(1)).seal(b"x")
    assert b.open(sealed, 0.0) is None
    assert b.open(sealed, 1.0) is not None


def test_the_table_of_senders_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More members than the limit push the ones known longest out."""
    monkeypatch.setattr(packets, "SENDERS_MAX", 3)
    _, b = _pair()
    for number in range(1, 6):
        sender = NodeId(f"{number:032x}")
        assert b.open(PacketSealer(_ring(1), sender, BootId(1)).seal(b"x"), 0.0) is not None
    assert len(b._senders) == 3
    b.forget(NodeId(f"{5:032x}"))
    assert len(b._senders) == 2


def test_the_counter_stops_hard_and_a_new_key_goes_on() -> None:
    """No nonce can ever repeat: at the stop nothing is sealed under that key, and a rotation is the way out."""
    ring_a, ring_b = _ring(1), _ring(1)
    a, b = PacketSealer(ring_a, A, BootId(1)), PacketSealer(ring_b, B, BootId(1))
    assert b.open(a.seal(b"first"), 0.0) is not None
    assert a._own is not None
    a._own.count = packets.COUNTER_WORN - 1
    a.seal(b"x")
    assert a.is_worn
    assert not a.is_exhausted
    a._own.count = packets.COUNTER_MAX - 1
    assert b.open(a.seal(b"last"), 0.0) is not None
    for _ in range(2):
        with pytest.raises(CounterExhausted) as caught:
            a.seal(b"one too many")
        assert "keys rotate" in caught.value.hint
    assert a.is_exhausted
    ring_b.merge((ring_a.rotate(b"n" * 32),))
    assert a.is_exhausted  # the new key is not sealed with yet
    ring_a.promote()
    assert (a.is_worn, a.is_exhausted) == (False, False)
    assert b.open(a.seal(b"under the new key"), 0.0) is not None
    assert (a.is_worn, a.is_exhausted) == (False, False)


def test_a_key_that_is_primary_again_never_repeats_a_nonce() -> None:
    """Whatever a keyring may do, packets under one key have counters that were not used before."""
    ring = _ring(1)
    a = PacketSealer(ring, A, BootId(1))
    first = a.seal(b"1")
    one, two = ring.keys[0], EpochKey(1, b"o" * 32)
    assert ring.merge((two,), from_issuer=True)
    a.seal(b"2")
    assert ring.merge((one,), from_issuer=True)
    assert a.seal(b"1")[: packets.HEADER_BYTES] != first[: packets.HEADER_BYTES]


def test_each_epoch_has_its_own_window_and_a_change_of_the_keyring_forgets_none() -> None:
    """Counters begin anew with a key; packets of the key before are replays still, after the keyring has changed."""
    ring_a, ring_b = _ring(1), _ring(1)
    a, b = PacketSealer(ring_a, A, BootId(1)), PacketSealer(ring_b, B, BootId(1))
    old = [a.seal(b"x") for _ in range(5)]
    assert all(b.open(packet, 0.0) for packet in old)
    ring_b.merge((ring_a.rotate(b"n" * 32),))
    ring_a.promote()
    new = [a.seal(b"y") for _ in range(5)]
    assert all(b.open(packet, 0.0) for packet in new)
    assert not any(b.open(packet, 0.0) for packet in old + new)
    assert b.drops == {"replay": 10}


def test_the_wires_key_id_wraps_around() -> None:
    """The byte on the wire is the epoch's last: 255 is followed by 0, and a key of 256 epochs ago is not mistaken."""
    rings = [_ring(), _ring()]
    for ring in rings:
        ring.merge(EpochKey(epoch, epoch.to_bytes(32, "big")) for epoch in (253, 254, 255))
        ring.promote()
    a, b = PacketSealer(rings[0], A, BootId(1)), PacketSealer(rings[1], B, BootId(1))
    for epoch in (256, 257, 258, 259):
        rings[1].merge((rings[0].rotate(epoch.to_bytes(32, "big")),))
        rings[0].promote()
        sealed = a.seal(b"x")
        assert sealed[3] == epoch & 0xFF
        assert b.open(sealed, 0.0) is not None
        assert b.open(a.seal(b"y", is_short=True), 0.0) is not None
    away = Keyring(EpochKey(epoch, epoch.to_bytes(32, "big")) for epoch in (1, 2, 3))
    assert b.open(PacketSealer(away, NodeId("0c" * 16), BootId(1)).seal(b"old"), 0.0) is None
    assert b.drops == {"tag": 1}
    away.merge(rings[0].keys)
    assert [key.epoch for key in away.keys] == [259, 258, 257]
    last = Keyring((EpochKey(EPOCH_MAX, b"l" * 32),))
    with pytest.raises(SecurityError, match="used up"):
        last.rotate(b"m" * 32)


def test_what_an_expelled_node_may_know_never_wins_and_is_retired_for_good() -> None:
    """A key made after an expulsion is higher than any made before, of whatever epoch; retired keys never return."""
    ring = _ring(1, 2)
    fresh = EpochKey(3, b"f" * 32, expelled=1)
    planted = EpochKey(9, b"p" * 32)
    assert ring.merge((fresh,))
    assert not ring.retire()  # packets under the older keys are still opened until the new one is sealed with
    assert not ring.merge((planted,))
    ring.promote()
    assert ring.primary == fresh
    assert ring.retire()
    assert not ring.retire()
    assert ring.keys == (fresh,)
    assert not ring.merge((planted, *_ring(1, 2).keys), from_issuer=True)
    assert not Keyring.decode(ring.encode()).merge(_ring(1, 2).keys)
    late = Keyring((planted,))
    assert late.merge((fresh,))
    assert late.primary == fresh  # what it held alone is gone by: nothing else is sealed with


def test_packets_of_an_expelled_node_are_dropped_under_any_key() -> None:
    """It holds the keys of before; nothing that it seals with them is heard, and nobody else's is."""
    expelled: set[NodeId] = set()
    a, b = PacketSealer(_ring(1), A, BootId(1)), PacketSealer(_ring(1), B, BootId(1), expelled)
    assert b.open(a.seal(b"member"), 0.0) is not None
    expelled.add(A)
    assert b.open(a.seal(b"x"), 0.0) is None
    assert b.open(a.seal(b"x", is_short=True), 0.0) is None
    assert b.drops == {"expelled": 2}
    assert b.open(PacketSealer(_ring(1), NodeId("0c" * 16), BootId(1)).seal(b"y"), 0.0) is not None


def test_own_packets_and_missing_keys_are_told_apart() -> None:
    """A reflected packet is dropped; sealing without a keyring says that it will come."""
    a, _ = _pair()
    assert a.open(a.seal(b"x"), 0.0) is None
    assert a.drops == {"self": 1}
    empty = PacketSealer(Keyring(), A, BootId(1))
    assert not empty.is_ready
    with pytest.raises(NotReady):
        empty.seal(b"x")


@given(st.lists(st.tuples(st.integers(1, 8), st.booleans()), max_size=30))
def test_keyrings_converge_in_any_order(steps: list[tuple[int, bool]]) -> None:
    """Members that exchange keyrings end with the same three highest epochs, whatever the order."""
    rings = [Keyring(), Keyring()]
    for epoch, first in steps:
        rings[first].merge((EpochKey(epoch, bytes([epoch]) * 32),))
    rings[0].merge(rings[1].keys)
    rings[1].merge(rings[0].keys)
    assert rings[0].keys == rings[1].keys
    assert [key.epoch for key in rings[0].keys] == sorted({epoch for epoch, _ in steps}, reverse=True)[:3]


def test_a_conflict_is_settled_by_the_issuer_and_bad_keys_are_ignored() -> None:
    """Only the issuer can replace a key of an epoch; keys of the wrong size never enter."""
    ring = _ring(1)
    other = EpochKey(1, b"o" * 32)
    assert not ring.merge((other, EpochKey(0, b"z" * 32), EpochKey(2, b"short")))
    assert ring.merge((other,), from_issuer=True)
    assert ring.primary == other
    assert Keyring.decode(ring.encode()).keys == ring.keys
    assert "6f6f" not in repr(other)
    assert "oooo" not in repr(other)
    with pytest.raises(CorruptData):
        Keyring.decode(b"\xff\xff")


def test_a_new_key_opens_at_once_and_seals_only_after_its_promotion() -> None:
    """Whoever has the new key hears both epochs; nobody is sealed out while it spreads."""
    ring_a, ring_b = _ring(1), _ring(1)
    a, b = PacketSealer(ring_a, A, BootId(1)), PacketSealer(ring_b, B, BootId(1))
    added = ring_a.rotate(b"n" * 32)
    assert not ring_a.is_settled
    assert b.open(a.seal(b"still the old key"), 0.0) is not None
    ring_b.merge((added,))
    ring_a.promote()
    assert ring_a.primary == added
    assert b.open(a.seal(b"the new key"), 0.0) is not None
    assert a.open(b.seal(b"the old key"), 0.0) is not None


def test_a_short_header_costs_27_bytes_and_opens_once_where_the_sender_is_known() -> None:
    """After one long packet the short form carries the same, shares its counters, and cannot be replayed."""
    a, b = _pair()
    assert b.open(a.seal(b"early", is_short=True), 0.0) is None
    assert b.open(a.seal(b"long"), 0.0) is not None
    sealed = a.seal(b"beat", is_short=True)
    assert len(sealed) == len(b"beat") + SHORT_OVERHEAD_BYTES == len(b"beat") + 27
    assert b.open(sealed, 0.0) == (A, 1 << 32, b"beat", True)
    assert b.open(sealed, 0.0) is None
    assert b.drops == {"unknown_sender": 1, "replay": 1}


def test_every_flipped_bit_of_a_short_packet_is_refused() -> None:
    """All one-bit mutants, header included, are dropped; the packet itself still opens afterwards."""
    a, b = _pair()
    b.open(a.seal(b""), 0.0)
    sealed = a.seal(b"x" * 8, is_short=True)
    for bit in range(8 * len(sealed)):
        mutant = bytearray(sealed)
        mutant[bit // 8] ^= 1 << bit % 8
        assert b.open(bytes(mutant), 0.0) is None
    assert b.open(sealed, 0.0) is not None


def test_two_senders_that_share_the_short_form_go_on_with_long_headers() -> None:
    """Nobody's packet is tried under another's key: the short form of both is refused, the long one opens."""
    twin = NodeId(A[:8] + "0c" * 12)
    b = PacketSealer(_ring(1), B, BootId(1))
    first, second = PacketSealer(_ring(1), A, BootId(1)), PacketSealer(_ring(1), twin, BootId(1))
    for sealer in (first, second):
        assert b.open(sealer.seal(b"long"), 0.0) is not None
    assert b.open(first.seal(b"x", is_short=True), 0.0) is None
    assert b.open(second.seal(b"x", is_short=True), 0.0) is None
    assert b.open(second.seal(b"long"), 0.0) is not None


def test_a_short_packet_of_an_older_boot_is_refused() -> None:
    """Once a newer boot was heard the old boot's key is gone, in either form."""
    old, new, b = (PacketSealer(_ring(1), node, BootId(boot)) for node, boot in ((A, 1), (A, 2), (B, 1)))
    b.open(old.seal(b"1"), 0.0)
    b.open(new.seal(b"2"), 0.0)
    assert b.open(old.seal(b"3", is_short=True), 0.0) is None
    assert b.open(new.seal(b"4", is_short=True), 0.0) == (A, 2, b"4", True)
    b.forget(A)
    assert b.open(new.seal(b"5", is_short=True), 0.0) is None


def test_short_forms_of_those_who_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds the key can make pairs that share a form without end; they take no memory, and the form is free."""
    monkeypatch.setattr(packets, "SENDERS_MAX", 4)
    b = PacketSealer(_ring(1), B, BootId(1))
    for number in range(40):
        for tail in ("0c", "0d"):
            sender = NodeId(f"{number:08x}" + tail * 12)
            assert b.open(PacketSealer(_ring(1), sender, BootId(1)).seal(b"x"), float(number)) is not None
    assert len(b._senders) == 4
    assert len(b._shorts) <= 2 * 4 + 1
