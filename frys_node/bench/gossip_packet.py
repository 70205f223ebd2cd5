"""Sealing and opening gossip packets of 1,200 bytes, against bare AES-256-GCM, and packets that are sent again."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from frys_node.base.types import BootId, NodeId
from frys_node.bench.figure import Figure
from frys_node.bench.runner import median
from frys_node.secure.keyring import KEY_BYTES, Keyring
from frys_node.secure.packet import HEADER_BYTES, PacketSealer
from frys_node.transport.entropy import SystemEntropy

PAYLOAD_BYTES = 1_200
PACKETS = 20_000
"""Sealed and opened in one round, and then offered again."""


def run(rounds: int) -> list[Figure]:
    """Interleave rounds of packets, of bare encryption, and of replays."""
    ours: list[float] = []
    bare: list[float] = []
    again: list[float] = []
    accepted = 0
    payload = b"x" * PAYLOAD_BYTES
    for number in range(rounds):
        sealer, opener = _pair(number)
        packets, opened = [], 0
        begun = time.process_time_ns()
        for _ in range(PACKETS):
            packet = sealer.seal(payload)
            opened += opener.open(packet, 0.0) is not None
            packets.append(packet)
        ours.append((time.process_time_ns() - begun) / 1e3 / PACKETS)
        assert opened == PACKETS, f"{PACKETS - opened} packets were not opened"
        bare.append(_bare(payload))
        begun = time.process_time_ns()
        accepted += sum(opener.open(packet, 0.0) is not None for packet in packets)
        again.append((time.process_time_ns() - begun) / 1e3 / PACKETS)
    return figures_of(ours, bare, again, accepted, PACKETS * rounds)


def figures_of(
    ours: Sequence[float], bare: Sequence[float], again: Sequence[float], accepted: int, sent: int
) -> list[Figure]:
    """Return the figures of microseconds a packet, and of replays."""
    return [
        Figure("seal and open 1,200 B, CPU", "us", median(ours), "bare AES-256-GCM", median(bare), "<= 6 us", ours),
        Figure("replayed packets accepted", "packets", accepted, "sent again", sent, "0"),
        Figure("a replay refused, CPU", "us", median(again), "seal and open", median(ours), "", again),
    ]


def _pair(number: int) -> tuple[PacketSealer, PacketSealer]:
    """Return two members with one keyring."""
    entropy = SystemEntropy()
    keyring = Keyring()
    keyring.rotate(entropy.token_bytes(KEY_BYTES))
    keyring.promote()
    names = (NodeId(entropy.token_bytes(16).hex()) for _ in range(2))
    left, right = (PacketSealer(keyring, name, BootId(number + 1)) for name in names)
    return left, right


def _bare(payload: bytes) -> float:
    """Return the microseconds of one encryption and decryption with a header of the same length."""
    cipher = AESGCM(SystemEntropy().token_bytes(32))
    header = bytes(HEADER_BYTES)
    begun = time.process_time_ns()
    for number in range(PACKETS):
        nonce = number.to_bytes(12, "big")
        cipher.decrypt(nonce, cipher.encrypt(nonce, payload, header), header)
    return (time.process_time_ns() - begun) / 1e3 / PACKETS
