"""Sealed gossip packets under every flipped bit, cut, lengthened, spliced, reflected and replayed."""

from __future__ import annotations

import random

from verify_handshake import flipped
from verify_tally import Tally

from frys_node.base.types import BootId, NodeId
from frys_node.secure.keyring import EpochKey, Keyring
from frys_node.secure.packet import HEADER_BYTES, SHORT_HEADER_BYTES, PacketSealer
from frys_node.secure.replay import WINDOW_COUNTERS

A, B, C = NodeId("0a" * 16), NodeId("0b" * 16), NodeId("0c" * 16)
BOOT = BootId(1 << 32)
PAYLOAD_BYTES = 1_200
SHORT_PAYLOAD_BYTES = 40
REPLAYS = 20_000
REPLAYED_PACKETS = 4_000


def ring(*epochs: int) -> Keyring:
    """Return a keyring whose keys follow from their epochs."""
    return Keyring(EpochKey(epoch, bytes([epoch]) * 32) for epoch in epochs)


class Ends:
    """Two senders and a receiver that knows both, all with two epochs."""

    def __init__(self) -> None:
        self.a, self.c = (PacketSealer(ring(1, 2), node, BOOT) for node in (A, C))
        self.b = PacketSealer(ring(1, 2), B, BOOT)
        for sender in (self.a, self.c):
            assert self.b.open(sender.seal(b"known"), 0.0) is not None


def flip_every_bit(size: int, *, is_short: bool) -> Tally:
    """Every bit of a packet, header and tag included: nothing opens but the packet itself, and that once."""
    kind = "short header" if is_short else "long header"
    tally, ends = Tally(f"gossip packet, {kind}, every bit", "mutants"), Ends()
    sealed = ends.a.seal(bytes(size), is_short=is_short)
    for bit in range(8 * len(sealed)):
        opened = ends.b.open(flipped(sealed, bit // 8, bit % 8), float(bit))
        tally.check(opened is None, f"bit {bit % 8} of byte {bit // 8} may be wrong")
    tally.notes.append(f"a packet of {len(sealed)} bytes; refused as {_reasons(ends.b)}")
    _only_once(tally, ends.b, sealed, size)
    return tally


def _only_once(tally: Tally, receiver: PacketSealer, sealed: bytes, size: int) -> None:
    opened = receiver.open(sealed, 1e6)
    if opened is None or opened.payload != bytes(size):
        tally.wrong.append("after its mutants the packet itself does not open")
    if receiver.open(sealed, 1e6) is not None:
        tally.wrong.append("the packet opens twice")


def _reasons(receiver: PacketSealer) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(receiver.drops.items()))


def cut_and_lengthen(*, is_short: bool) -> Tally:
    """Every shorter prefix and suffix, and longer packets."""
    kind = "short header" if is_short else "long header"
    tally, ends = Tally(f"gossip packet, {kind}, cut or longer", "mutants"), Ends()
    size = SHORT_PAYLOAD_BYTES
    sealed = ends.a.seal(bytes(size), is_short=is_short)
    mutants = [sealed[:end] for end in range(len(sealed))] + [sealed[start:] for start in range(1, len(sealed))]
    mutants += [sealed + more for more in (b"\0", b"\0" * 16, sealed[-16:], sealed)]
    mutants += [b"\0" + sealed, sealed[:2] + sealed]
    for number, mutant in enumerate(mutants):
        tally.check(ends.b.open(mutant, float(number)) is None, f"mutant {number} of {len(mutant)} bytes opens")
    _only_once(tally, ends.b, sealed, size)
    return tally


def splice() -> Tally:
    """Headers and bodies of different packets, senders, boots, epochs and forms put together; and packets sent back."""
    tally, ends = Tally("gossip packets spliced and reflected", "mutants"), Ends()
    older = PacketSealer(ring(1, 2), A, BootId(BOOT - 1))
    other_epoch = PacketSealer(ring(1), A, BOOT)
    other_epoch.seal(b"")
    senders = (ends.a, ends.c, older, other_epoch, ends.b)
    packets = [(sealer.seal(b"x" * 24), HEADER_BYTES) for sealer in senders]
    packets += [(sealer.seal(b"x" * 24, is_short=True), SHORT_HEADER_BYTES) for sealer in senders]
    for number, (first, first_header) in enumerate(packets):
        for other, (second, second_header) in enumerate(packets):
            if number != other:
                mutant = first[:first_header] + second[second_header:]
                tally.check(ends.b.open(mutant, float(number)) is None, f"header of {number}, body of {other}: opens")
    for number in (4, 9):
        tally.check(ends.b.open(packets[number][0], 100.0) is None, "a packet of its own opens")
    return tally


def replay(count: int) -> list[Tally]:
    """Packets of both forms again, as they were, in any order, after more than a window, and after a rotation."""
    tally, ends, rng = Tally("gossip packets replayed", "packets"), Ends(), random.Random(1)
    keys = ring(1, 2)
    receiver = PacketSealer(keys, B, BOOT)
    seen = [ends.a.seal(number.to_bytes(4, "big"), is_short=number % 3 == 1) for number in range(REPLAYED_PACKETS)]
    first = [sealed for sealed in seen if receiver.open(sealed, 0.0) is not None]
    if len(first) != len(seen):
        tally.wrong.append(f"only {len(first)} of {len(seen)} packets opened the first time")
    for number in range(count):
        if number == count // 2:
            keys.merge((EpochKey(3, b"3" * 32),))
            keys.promote()
        # One in four comes from inside the window, where only its bit tells.
        newest = rng.random() < 0.25
        sealed = rng.choice(seen[-WINDOW_COUNTERS:] if newest else seen)
        tally.check(receiver.open(sealed, number / 1e3) is None, f"replay {number} opens")
    tally.notes.append(f"of {len(seen)} packets; refused as {_reasons(receiver)}")
    return [tally, _late(ends), _elsewhere()]


def _elsewhere() -> Tally:
    """Packets of a live boot, recorded on their way to one member, at others and at one that was restarted.

    A window is a receiver's own and lives as long as its process: each of these takes a packet once, which is a listed
    deviation. None does once the sender's next boot was met in TLS, or the key is held no more.
    """
    tally = Tally("gossip packets shown to others", "packets")
    keys, sender = ring(1, 2), PacketSealer(ring(1, 2), A, BOOT)
    seen = [sender.seal(number.to_bytes(4, "big"), is_short=number % 3 == 1) for number in range(WINDOW_COUNTERS)]
    first = PacketSealer(keys, B, BOOT)
    if any(first.open(sealed, 0.0) is None for sealed in seen):
        tally.wrong.append("a packet does not open where it was sent to")
    others = {
        "another member": PacketSealer(keys, C, BOOT),
        "the receiver, restarted": PacketSealer(keys, B, BootId(BOOT + 1)),
    }
    for name, other in others.items():
        once = [number for number, sealed in enumerate(seen) if other.open(sealed, 0.0) is not None]
        tally.settle(f"{name}, packet", once, range(len(seen)), f"once at {name}")
        for number, sealed in enumerate(seen):
            tally.check(other.open(sealed, 0.0) is None, f"{name}: packet {number} opens twice")
    met, keyless = PacketSealer(keys, C, BOOT), PacketSealer(ring(3, 4, 5), C, BOOT)
    met.note_boot(A, BootId(BOOT + 1))
    for number, sealed in enumerate(seen):
        tally.check(met.open(sealed, 0.0) is None, f"packet {number} of a former boot opens")
        tally.check(keyless.open(sealed, 0.0) is None, f"packet {number} opens without its key")
    return tally


def _late(ends: Ends) -> Tally:
    """Packets that were held back open once if they are inside the window, and never from behind it."""
    tally = Tally("gossip packets held back", "packets")
    held = [ends.a.seal(b"held") for _ in range(2 * WINDOW_COUNTERS)]
    ends.b.open(ends.a.seal(b"newest"), 0.0)
    # The newest itself is one of the window's counters.
    inside = held[-(WINDOW_COUNTERS - 1) :]
    for sealed in held[: -len(inside)]:
        tally.check(ends.b.open(sealed, 0.0) is None, "a packet from behind the window opens")
    for sealed in inside:
        tally.check(ends.b.open(sealed, 0.0) is not None, "a packet inside the window does not open")
        tally.check(ends.b.open(sealed, 0.0) is None, "a packet inside the window opens twice")
    return tally


def packets() -> list[Tally]:
    """Mutants of packets."""
    tallies = []
    for is_short in (False, True):
        tallies.append(flip_every_bit(SHORT_PAYLOAD_BYTES if is_short else PAYLOAD_BYTES, is_short=is_short))
        tallies.append(cut_and_lengthen(is_short=is_short))
    return [*tallies, splice()]


def replays() -> list[Tally]:
    """20,000 replays, and what others make of packets that were not sent to them."""
    return replay(REPLAYS)
