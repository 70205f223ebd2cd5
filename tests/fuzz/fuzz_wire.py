"""The seal, the frames and the channel under fuzz: what a stranger's and a hostile member's bytes meet first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
from fuzz_machine import check, session_of, steps_of

from frys_node.base.errors import FrysError, MalformedFrame, WireError, error_from_code
from frys_node.base.types import Address, BootId, NodeId
from frys_node.channel.messages import CHANNEL_CODEC, FRAME_BYTES_MAX, KIND_CHANNEL, Failure, Hello, Request
from frys_node.channel.mux import IN_FLIGHT_MAX, Event, Mux
from frys_node.secure.keyring import EPOCHS_MAX, EpochKey, Keyring
from frys_node.secure.packet import _HEADER, OVERHEAD_BYTES, SENDERS_MAX, SHORT_OVERHEAD_BYTES, PacketSealer
from frys_node.secure.replay import WINDOW_COUNTERS
from frys_node.trust.join_messages import JOIN_CODEC, InfoRequest, JoinAccepted, JoinRequest, PeerAddress
from frys_node.trust.messages import Credentials
from frys_node.wire.frame import Frame, FrameReader, encode_frame

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
A, B, TWIN = NodeId("0a" * 16), NodeId("0b" * 16), NodeId("0a0a0a0a" + "0c" * 12)
"""Two nodes, and a third that shares the first bytes of its id with one of them."""

QUEUE_BYTES_MAX = 1 << 16
STREAM_BYTES_MAX = 2_048
BYTEWISE_BYTES_MAX = 300


def _ring(*epochs: int) -> Keyring:
    return Keyring(EpochKey(epoch, bytes([epoch & 0xFF]) * 32) for epoch in epochs)


class SealHarness:
    """`PacketSealer.open`: forged, damaged, replayed and honest packets, with keys that change meanwhile."""

    PLAIN, HONEST, BOOT, FORGET, ROTATE, REPLAY = range(6)

    def __init__(self) -> None:
        names = ("gossip-packet-1.bin", "gossip-packet-short-1.bin")
        self._golden = [(GOLDEN / name).read_bytes() for name in names]

    def seeds(self) -> list[bytes]:
        """The golden packets, and a session of every kind of step."""
        long, short = self._golden
        header = _HEADER.pack(b"FG", 1, 1, bytes.fromhex(A), 7, 9)
        honest = [(self.HONEST, n, n, b"hello") for n in range(6)]
        changes = [
            (self.BOOT, 0, 0, b"\x09"),
            (self.ROTATE, 1, 0, b""),
            (self.FORGET, 0, 0, b""),
            (self.REPLAY, 1, 0, b""),
        ]
        plain = [(self.PLAIN, 0, 0, long), (self.PLAIN, 0, 0, short), (self.PLAIN, 0, 0, header + bytes(20))]
        return [long, short, session_of(*plain), session_of(*honest, *changes, *honest)]

    def run(self, data: bytes) -> None:
        """Open whatever comes; what was not sealed under the key is never opened, and nothing twice."""
        ring = _ring(1)
        opener = PacketSealer(ring, B, BootId(1))
        sealers = {(node, boot): PacketSealer(ring, node, BootId(boot)) for node in (A, TWIN) for boot in (7, 8)}
        sent: list[bytes] = []
        seen: set[bytes] = set()
        sent.append(sealers[A, 7].seal(b"first"))
        self._open(opener, sent[0], sent, seen)
        for number, (kind, who, wait_ms, payload) in enumerate(steps_of(data, self.PLAIN)):
            node = (A, TWIN)[who & 1]
            match kind:
                case self.HONEST:
                    sent.append(sealers[node, 7 + (who >> 1 & 1)].seal(payload, is_short=bool(wait_ms & 1)))
                    self._open(opener, sent[-1], sent, seen, number)
                case self.BOOT:
                    opener.note_boot(node, BootId(int.from_bytes(payload[:8], "big")))
                case self.FORGET:
                    opener.forget(node)
                    # What is forgotten may be replayed: that is what forgetting means.
                    seen.clear()
                case self.ROTATE:
                    ring.rotate(bytes([number & 0xFF]) * 32)
                    ring.promote()
                case self.REPLAY:
                    self._open(opener, sent[who % len(sent)], sent, seen, number)
                case _:
                    self._open(opener, payload, sent, seen, number)

    def _open(self, opener: PacketSealer, packet: bytes, sent: list[bytes], seen: set[bytes], number: int = 0) -> None:
        before = sum(opener.drops.values())
        opened = opener.open(packet, float(number))
        check((opened is None) == (sum(opener.drops.values()) == before + 1), "a drop was not counted")
        check(len(opener._senders) <= SENDERS_MAX and len(opener._shorts) <= 2, "senders over their bound")
        for known in opener._senders.values():
            sizes = [window._seen.bit_length() for window in known.windows.values()]
            check(max(sizes, default=0) <= WINDOW_COUNTERS, "a window over its bound")
            check(max(len(sizes), len(known.openers)) <= EPOCHS_MAX, "more keys than epochs")
        if opened is not None:
            check(packet in sent or packet in self._golden, "a packet was opened that nobody sealed")
            check(packet not in seen, "a packet was opened twice")
            seen.add(packet)
            overhead = SHORT_OVERHEAD_BYTES if opened.is_short else OVERHEAD_BYTES
            check(len(opened.payload) == len(packet) - overhead, "the payload is not that of the packet")


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


class FrameHarness:
    """`FrameReader`: however a stream is cut, the frames are the same; bodies go through every codec of the channel."""

    LIMIT_BYTES = 1_024

    def seeds(self) -> list[bytes]:
        """The golden stream, joins, and frames at the limits."""
        join = [
            InfoRequest(1, 1),
            JoinRequest("t", b"p" * 32, b"csr", "n2", True, "10.0.0.2:7946"),
            JoinAccepted(b"p", b"c", b"ca", "c" * 32, "prod", "n2", A, (PeerAddress(A, "n1", "10.0.0.1:7946"),)),
        ]
        frames = b"".join(encode_frame(2, JOIN_CODEC.encode(message)) for message in join)
        return [
            (GOLDEN / "channel-messages-1.bin").read_bytes(),
            (GOLDEN / "channel-messages-2.bin").read_bytes(),
            (GOLDEN / "channel-messages-3.bin").read_bytes(),
            frames,
            encode_frame(9, b"x" * (self.LIMIT_BYTES - 1)),
            b"\x00\x00\x04\x01\x01",
            b"\x00\x00\x00\x00\x01",
        ]

    def run(self, data: bytes) -> None:
        """Cut the stream whole, in bytes and in odd pieces."""
        outcomes = []
        for size in (max(1, len(data)), 7, 1 if len(data) <= BYTEWISE_BYTES_MAX else 64):
            reader = FrameReader(self.LIMIT_BYTES)
            frames: list[Frame] = []
            error = ""
            try:
                for piece in _pieces(data[:STREAM_BYTES_MAX], size):
                    frames += reader.receive_data(piece)
                    check(reader.buffered_bytes < self.LIMIT_BYTES + 5, "a frame over the limit is gathered")
            except WireError as refused:
                error = refused.code
            outcomes.append((frames, error))
        whole, error = max(outcomes, key=lambda outcome: len(outcome[0]))
        for frames, other_error in outcomes:
            check(other_error == error, "the error depends on how the stream is cut")
            # An error takes the frames of the same piece along: the connection is closed.
            check(frames == whole[: len(frames)] if error else frames == whole, "frames depend on how it is cut")
        for frame in whole:
            for codec in (CHANNEL_CODEC, JOIN_CODEC):
                try:
                    message = codec.decode(frame.body)
                except MalformedFrame:
                    continue
                check(codec.decode(codec.encode(message)) == message, "what was decoded is not what is encoded")


class ChannelHarness:
    """`Mux`: a stream from a member that may lie, beside calls of this side."""

    DATA, CALL, CANCEL, DRAIN, MESSAGE = range(5)

    def seeds(self) -> list[bytes]:
        """The golden stream, its messages one by one, and calls of both sides between them."""
        stream = (GOLDEN / "channel-messages-1.bin").read_bytes()
        frames = FrameReader().receive_data(stream)
        messages = [(self.MESSAGE, 0, n, frame.body) for n, frame in enumerate(frames)]
        calls = [(self.CALL, n, 0, b"body") for n in range(3)]
        return [
            stream,
            session_of(*messages),
            session_of(messages[0], *calls, *messages[1:], (self.CANCEL, 1, 0, b""), (self.DRAIN, 0, 0, b""), *calls),
        ]

    def run(self, data: bytes) -> None:
        """Feed both ends of a connection; only errors of the wire may end it."""
        for dialled in (True, False):
            self._run(Mux(dialled=dialled, limit_bytes=QUEUE_BYTES_MAX), data)

    def _run(self, mux: Mux, data: bytes) -> None:
        mux.hello(Hello(1, 1, "c" * 32, "prod", "n1", 1, "10.0.0.1:7946"))
        keyring = _ring(1)
        calls: list[int] = []
        try:
            for kind, who, _, payload in steps_of(data, self.DATA):
                match kind:
                    case self.CALL:
                        calls.append(mux.request("cache.get", who, payload))
                    case self.CANCEL:
                        mux.cancel(calls[who % len(calls)] if calls else who)
                    case self.DRAIN:
                        mux.go_away("done")
                    case self.MESSAGE:
                        self._take(mux, keyring, mux.receive_data(encode_frame(KIND_CHANNEL, payload)))
                    case _:
                        self._take(mux, keyring, mux.receive_data(payload))
                self._verify(mux)
        except FrysError:
            return
        finally:
            self._verify(mux)
            sent = FrameReader(FRAME_BYTES_MAX).receive_data(mux.data_to_send())
            for frame in sent:
                CHANNEL_CODEC.decode(frame.body)

    @staticmethod
    def _verify(mux: Mux) -> None:
        check(len(mux._incoming) <= IN_FLIGHT_MAX and len(mux._outgoing) <= IN_FLIGHT_MAX, "calls over their bound")
        check(mux.queued_bytes <= QUEUE_BYTES_MAX + FRAME_BYTES_MAX, f"{mux.queued_bytes} bytes queued")
        check(mux.queued_bytes == sum(map(len, mux._queue)), "queued bytes miscounted")

    @staticmethod
    def _take(mux: Mux, keyring: Keyring, events: list[Event]) -> None:
        """What a connection does with events, as far as it is more bytes to read."""
        for number, event in zip(itertools.count(), events, strict=False):
            match event:
                case Hello():
                    # Its boot is what packets are opened under from now on.
                    sealer = PacketSealer(_ring(1), B, BootId(1))
                    sealer.note_boot(A, BootId(event.boot))
                    sealer.open(b"g\x01" + bytes.fromhex(A)[:4] + bytes(5 + 16 + 1), 0.0)
                    try:
                        Address.parse(event.address)
                    except FrysError:
                        continue
                case Credentials():
                    keyring.merge(event.keys)
                    check(1 <= len(keyring.keys) <= EPOCHS_MAX, "keys over their bound")
                case Failure():
                    msgspec.json.encode(str(error_from_code(event.code, event.message, event.hint)))
                case Request() if number % 2:
                    mux.reply(event.id, b"ok")
                case Request():
                    mux.fail(event.id, "code", "message")
                case _:
                    continue
