"""Sealed gossip packets, FRYS-G/1 (D2, security study 3.5).

Sans-I/O. Layout, 52 bytes around the payload::

    "FG" | version u8 | key id u8 | sender 16 | boot u64 | counter u64     36 bytes, the associated data
    ciphertext | tag 16

AES-256-GCM under a subkey per epoch, sender and boot (HKDF-Expand-SHA384), so the nonce can be the bare counter: a
restart has a new boot and therefore a new key, and no two nodes share one. The counter stops hard at 2^40 (the limit of
the study), long after which a node would have restarted or the epoch rotated.

The receiver looks the key up by what the header says and never tries keys in turn. Nothing is kept for a sender until
a packet of it verified, and first-time derivations are rate-limited, so forged headers cost neither memory nor much
time. A sender's boot never goes back: packets of an older boot are stale. A window of 1,024 counters per sender and
boot refuses replays.

What this does not do: a receiver that restarted has empty windows, so packets of the current epoch can be replayed to
it once, until it has heard the sender (or met it in TLS: `note_boot`); membership is safe against that by its
incarnation numbers. And any member can forge another's packets, because the group key is shared.
"""

from __future__ import annotations

import hmac
import struct
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from frys_node.base.errors import NotReady
from frys_node.base.types import BootId, NodeId
from frys_node.secure.errors import CounterExhausted
from frys_node.secure.keyring import EpochKey, Keyring
from frys_node.secure.replay import ReplayWindow

HEADER_BYTES: Final = 36
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES
COUNTER_MAX: Final = 1 << 40
PACKET_BYTES_MAX: Final = 65_507

SENDERS_MAX = 16_384
"""Senders whose keys and windows are kept; the one known longest goes first."""

DERIVATIONS_PER_S = 1_000
"""First-time key derivations per second (5 us each), known senders excepted."""

_MAGIC = b"FG"
_VERSION = 1
_HEADER = struct.Struct(">2sBB16sQQ")
_NONCE = struct.Struct(">4xQ")


class OpenedPacket(NamedTuple):
    """A packet that verified and is new."""

    sender: NodeId
    boot: BootId
    payload: bytes


class _Sender:
    """What is kept of one sender: its current boot, and per epoch a key; one window, counters never restart."""

    __slots__ = ("boot", "ciphers", "window")

    def __init__(self, boot: int) -> None:
        self.boot = boot
        self.ciphers: dict[int, AESGCM] = {}
        self.window = ReplayWindow()


def subkey(key: EpochKey, sender: bytes, boot: int) -> bytes:
    """Return the 32-byte key of a sender's boot in an epoch: HKDF-Expand-SHA384 (RFC 5869), one block."""
    info = b"frys gossip v1" + sender + boot.to_bytes(8, "big")
    return hmac.digest(key.key, info + b"\x01", "sha384")[:32]


class PacketSealer:
    """Seals this node's packets and opens those of others. The keyring may change at any time."""

    __slots__ = (
        "_boot",
        "_counter",
        "_derivations",
        "_derived_s",
        "_keyring",
        "_own",
        "_own_revision",
        "_revision",
        "_self",
        "_senders",
        "drops",
    )

    def __init__(self, keyring: Keyring, node: NodeId, boot: BootId) -> None:
        self._keyring = keyring
        self._self = bytes.fromhex(node)
        self._boot = boot
        self._counter = 0
        self._own: tuple[int, AESGCM] | None = None
        self._own_revision = -1
        self._revision = -1
        self._senders: dict[bytes, _Sender] = {}
        self._derivations = float(DERIVATIONS_PER_S)
        self._derived_s = 0.0
        self.drops: dict[str, int] = {}
        """Packets that `open` refused, by reason."""

    @property
    def is_ready(self) -> bool:
        """True once there is a key to seal with."""
        return self._keyring.primary is not None

    def seal(self, payload: bytes) -> bytes:
        """Return the sealed packet.

        Raises:
            NotReady: No keyring has arrived yet. Nothing was sealed.
            CounterExhausted: The counter is at its stop. Nothing was sealed, and nothing will be under this boot.
        """
        if self._own_revision != self._keyring.revision or self._own is None:
            self._own = self._derive_own()
            self._own_revision = self._keyring.revision
        if self._counter >= COUNTER_MAX:
            raise CounterExhausted
        counter = self._counter
        self._counter = counter + 1
        key_id, cipher = self._own
        header = _HEADER.pack(_MAGIC, _VERSION, key_id, self._self, self._boot, counter)
        return header + cipher.encrypt(_NONCE.pack(counter), payload, header)

    def _derive_own(self) -> tuple[int, AESGCM]:
        primary = self._keyring.primary
        if primary is None:
            raise NotReady("no gossip keyring yet", hint="it comes with the first connection to a member")
        return primary.epoch & 0xFF, AESGCM(subkey(primary, self._self, self._boot))

    def open(self, packet: bytes, now_s: float) -> OpenedPacket | None:
        """Return what a packet says, or None (counted in `drops`) if it is not a new packet of a member.

        Reasons: ``short``, ``foreign`` (not this protocol), ``self``, ``unknown_key``, ``stale_boot``, ``replay``,
        ``rate`` (too many unknown senders), ``tag``.
        """
        opened = self._open(packet, now_s)
        if isinstance(opened, OpenedPacket):
            return opened
        self.drops[opened] = self.drops.get(opened, 0) + 1
        return None

    def _open(self, packet: bytes, now_s: float) -> OpenedPacket | str:
        """Return the packet, or the reason why it is dropped."""
        if len(packet) < OVERHEAD_BYTES:
            return "short"
        magic, version, key_id, sender, boot, counter = _HEADER.unpack_from(packet)
        if magic != _MAGIC or version != _VERSION or counter >= COUNTER_MAX:
            return "foreign"
        if sender == self._self:
            return "self"
        if self._revision != self._keyring.revision:
            self._forget_keys()
        known = self._senders.get(sender)
        if known is not None and known.boot == boot:
            if not known.window.is_new(counter):
                return "replay"
            cipher = known.ciphers.get(key_id)
        else:
            if known is not None and boot < known.boot:
                return "stale_boot"
            known = cipher = None
        if cipher is None:
            derived = self._derive(key_id, sender, boot, now_s, is_known=known is not None)
            if isinstance(derived, str):
                return derived
            cipher = derived
        header = packet[:HEADER_BYTES]
        try:
            payload = cipher.decrypt(_NONCE.pack(counter), packet[HEADER_BYTES:], header)
        except InvalidTag:
            return "tag"
        if known is None:
            known = self._remember(sender, boot)
        known.ciphers[key_id] = cipher
        known.window.add(counter)
        return OpenedPacket(NodeId(sender.hex()), BootId(boot), payload)

    def note_boot(self, sender: NodeId, boot: BootId) -> None:
        """Take a member's boot as proven by TLS: older boots are stale now, and it needs no budget to be derived."""
        raw = bytes.fromhex(sender)
        known = self._senders.get(raw)
        if raw != self._self and (known is None or known.boot < boot):
            self._remember(raw, boot)

    def forget(self, sender: NodeId) -> None:
        """Forget a member that is gone for good."""
        self._senders.pop(bytes.fromhex(sender), None)

    def _remember(self, sender: bytes, boot: int) -> _Sender:
        if len(self._senders) >= SENDERS_MAX and sender not in self._senders:
            self._senders.pop(next(iter(self._senders)))
        known = self._senders[sender] = _Sender(boot)
        return known

    def _derive(self, key_id: int, sender: bytes, boot: int, now_s: float, *, is_known: bool) -> AESGCM | str:
        key = self._keyring.find(key_id)
        if key is None:
            return "unknown_key"
        if not is_known:
            elapsed_s = max(0.0, now_s - self._derived_s)
            self._derivations = min(float(DERIVATIONS_PER_S), self._derivations + elapsed_s * DERIVATIONS_PER_S)
            self._derived_s = now_s
            if self._derivations < 1.0:
                return "rate"
            self._derivations -= 1.0
        return AESGCM(subkey(key, sender, boot))

    def _forget_keys(self) -> None:
        """The keyring changed: keys of retired epochs must not open anything any more."""
        self._revision = self._keyring.revision
        for known in self._senders.values():
            known.ciphers.clear()
