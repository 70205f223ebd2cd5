"""Sealed gossip packets, FRYS-G/1 (D2, security study 3.5).

Sans-I/O. Layout, 52 bytes around the payload::

    "FG" | version u8 | key id u8 | sender 16 | boot u64 | counter u64     36 bytes, the associated data
    ciphertext | tag 16

AES-256-GCM under a subkey per epoch, sender and boot (HKDF-Expand-SHA384), so the nonce can be the bare counter: a
restart has a new boot and therefore a new key, and no two nodes share one.

Between members that have heard each other a *short* header of 11 bytes does, 27 around the payload::

    "g" | key id u8 | first 4 of sender | counter u40

The rest of the header is what both know; it is authenticated all the same, since the associated data are those of the
long form with version 2. Keys, counters and windows are shared by both forms. Idle traffic is small packets, so this
is a third of it.

Counters begin at 0 with each epoch's key and stop hard at 2^40: a node that seals ten thousand packets a second, with
keys that are never rotated, gets there after three years. From `COUNTER_WORN` on `is_worn` says so, and the channel
asks the issuer for a new key, long before anything has to stop.

The receiver looks the key up by what the header says and never tries keys in turn. Nothing is kept for a sender until
a packet of it verified, and first-time derivations are rate-limited, so forged headers cost neither memory nor much
time. A window of 1,024 counters per sender, boot and epoch refuses replays. Packets of expelled nodes are dropped,
whatever key they have.

A boot that was met in TLS is *proven*: packets of older boots are stale for good, and no packet makes it stale. A
higher boot that only packets have told (the sender has just restarted, or any member made it up) is heard beside it
until the next meeting in TLS, which settles what is true. Of a sender that was never met, the highest boot heard
counts; one that nothing was heard of under the keys that are left gives way to any other, so whatever an expelled
node made up ends with the keys it knew. Until then a packet of a lower boot that verifies asks for a meeting
(`on_doubt`).

What this does not do: a receiver that restarted has empty windows, so packets of the current epoch can be replayed to
it once, until it has heard the sender (or met it in TLS: `note_boot`); membership is safe against that by its
incarnation numbers. And any member can forge another's packets, because the group key is shared.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Container
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
COUNTER_WORN: Final = COUNTER_MAX - (1 << 36)
"""From here on a new key is wanted; what is left lasts 80 days at ten thousand packets a second."""
PACKET_BYTES_MAX: Final = 65_507

SENDERS_MAX = 16_384
"""Senders whose keys and windows are kept; the one known longest goes first."""

DERIVATIONS_PER_S = 1_000
"""First-time key derivations per second (5 us each), known senders excepted."""

OWN_KEYS_MAX = 16
"""Keys of its own that a node counts under; one that was retired never comes back, so more than three is caution."""

DOUBT_EVERY_S = 1.0
"""Pause between looks whether a packet of an older boot is genuine, which asks for a meeting in TLS."""

SHORT_HEADER_BYTES: Final = 11
SHORT_OVERHEAD_BYTES: Final = SHORT_HEADER_BYTES + TAG_BYTES

_MAGIC = b"FG"
_VERSION = 1
_SHORT_MAGIC = b"g"
_SHORT_VERSION = 2
_SHORT_SENDER_BYTES = 4
_HEADER = struct.Struct(">2sBB16sQQ")
_SHORT_HEADER = struct.Struct(">1sB4sBI")
_NONCE = struct.Struct(">4xQ")


class OpenedPacket(NamedTuple):
    """A packet that verified and is new."""

    sender: NodeId
    boot: BootId
    payload: bytes
    is_short: bool = False
    """Its sender takes it that this node knows it: an answer may have the short header too."""


class _Opener:
    """What opens a sender's packets of one epoch."""

    __slots__ = ("cipher", "key", "window")

    def __init__(self, key: bytes, cipher: AESGCM, window: ReplayWindow) -> None:
        self.key = key
        self.cipher = cipher
        self.window = window


class _Sender:
    """What is kept of one sender's boot: an opener by key id."""

    __slots__ = ("boot", "heir", "is_fading", "is_proven", "node", "openers", "sender", "windows")

    def __init__(self, sender: bytes, boot: int) -> None:
        self.sender = sender
        self.node = NodeId(sender.hex())
        self.boot = BootId(boot)
        self.is_proven = False
        """True once this boot was met in TLS."""
        self.is_fading = False
        """True if all keys are retired that this boot was heard under: if unproven, any other boot takes its place."""
        self.heir: _Sender | None = None
        """Of a proven boot: a higher one, which only packets have told."""
        self.openers: dict[int, _Opener] = {}
        self.windows: dict[bytes, ReplayWindow] = {}
        """By epoch key: a change of the keyring drops openers, but forgets nothing seen under a key that stays."""

    def at(self, boot: int) -> _Sender | None:
        """Return what is kept of that boot, this one or the heir."""
        if self.boot == boot:
            return self
        return self.heir if self.heir is not None and self.heir.boot == boot else None


class _Own:
    """This node's own key of an epoch, and how often it was used."""

    __slots__ = ("cipher", "count", "key_id")

    def __init__(self, cipher: AESGCM) -> None:
        self.key_id = 0
        self.cipher = cipher
        self.count = 0


def subkey(key: EpochKey, sender: bytes, boot: int) -> bytes:
    """Return the 32-byte key of a sender's boot in an epoch: HKDF-Expand-SHA384 (RFC 5869), one block."""
    info = b"frys gossip v1" + sender + boot.to_bytes(8, "big")
    return hmac.digest(key.key, info + b"\x01", "sha384")[:32]


class PacketSealer:
    """Seals this node's packets and opens those of others. The keyring may change at any time."""

    __slots__ = (
        "_boot",
        "_derivations",
        "_derived_s",
        "_doubt_s",
        "_expelled",
        "_keyring",
        "_own",
        "_own_revision",
        "_owns",
        "_revision",
        "_self",
        "_senders",
        "_shorts",
        "drops",
        "on_doubt",
    )

    def __init__(self, keyring: Keyring, node: NodeId, boot: BootId, expelled: Container[NodeId] = ()) -> None:
        self._keyring = keyring
        self._self = bytes.fromhex(node)
        self._boot = boot
        self._expelled = expelled
        self._own: _Own | None = None
        self._own_revision = -1
        self._owns: dict[bytes, _Own] = {}
        """By epoch key: one that was sealed with goes on counting, should it ever be the primary one again."""
        self._revision = -1
        self._senders: dict[bytes, _Sender] = {}
        self._shorts: dict[bytes, _Sender | None] = {}
        """Senders by the first bytes of their id; None where two share them, and only long headers do."""
        self._derivations = float(DERIVATIONS_PER_S)
        self._derived_s = 0.0
        self._doubt_s = float("-inf")
        self.on_doubt: Callable[[NodeId], None] = lambda _node: None
        """Called with a member that should be met in TLS: packets tell two boots of it, and which one lives is open."""
        self.drops: dict[str, int] = {}
        """Packets that `open` refused, by reason."""

    @property
    def is_ready(self) -> bool:
        """True once there is a key to seal with."""
        return self._keyring.primary is not None

    @property
    def is_worn(self) -> bool:
        """True if this node should have a new key to seal with, soon."""
        return self._own is not None and self._own.count >= COUNTER_WORN and not self._has_fresh_key

    @property
    def is_exhausted(self) -> bool:
        """True if nothing can be sealed any more under this key and boot."""
        return self._own is not None and self._own.count >= COUNTER_MAX and not self._has_fresh_key

    @property
    def _has_fresh_key(self) -> bool:
        primary = self._keyring.primary
        return primary is not None and primary.key not in self._owns

    def seal(self, payload: bytes, *, is_short: bool = False) -> bytes:
        """Return the sealed packet; a short header is only understood by a member that has opened a long one before.

        Raises:
            NotReady: No keyring has arrived yet. Nothing was sealed.
            CounterExhausted: The counter is at its stop. Nothing was sealed, and nothing will be under this key and
                boot.
        """
        own = self._own
        if self._own_revision != self._keyring.revision or own is None:
            own = self._own = self._derive_own()
            self._own_revision = self._keyring.revision
        if own.count >= COUNTER_MAX:
            raise CounterExhausted(hint="frys-node keys rotate, or restart this node")
        counter = own.count
        own.count = counter + 1
        key_id, cipher = own.key_id, own.cipher
        version = _SHORT_VERSION if is_short else _VERSION
        header = _HEADER.pack(_MAGIC, version, key_id, self._self, self._boot, counter)
        body = cipher.encrypt(_NONCE.pack(counter), payload, header)
        if not is_short:
            return header + body
        short = self._self[:_SHORT_SENDER_BYTES]
        return _SHORT_HEADER.pack(_SHORT_MAGIC, key_id, short, counter >> 32, counter & 0xFFFF_FFFF) + body

    def _derive_own(self) -> _Own:
        primary = self._keyring.primary
        if primary is None:
            raise NotReady("no gossip keyring yet", hint="it comes with the first connection to a member")
        own = self._owns.get(primary.key)
        if own is None:
            if len(self._owns) >= OWN_KEYS_MAX:
                self._owns.pop(next(iter(self._owns)))
            own = self._owns[primary.key] = _Own(AESGCM(subkey(primary, self._self, self._boot)))
        own.key_id = primary.epoch & 0xFF
        return own

    def open(self, packet: bytes, now_s: float) -> OpenedPacket | None:
        """Return what a packet says, or None (counted in `drops`) if it is not a new packet of a member.

        Reasons: ``short``, ``foreign`` (not this protocol), ``self``, ``unknown_key``, ``stale_boot``, ``replay``,
        ``rate`` (too many unknown senders), ``unknown_sender`` (of a short header), ``tag``, ``expelled``.
        """
        opened = self._open(packet, now_s)
        if isinstance(opened, OpenedPacket):
            return opened
        self.drops[opened] = self.drops.get(opened, 0) + 1
        return None

    def _open(self, packet: bytes, now_s: float) -> OpenedPacket | str:
        """Return the packet, or the reason why it is dropped."""
        if packet[:1] == _SHORT_MAGIC:
            return self._open_short(packet)
        if len(packet) < OVERHEAD_BYTES:
            return "short"
        magic, version, key_id, sender, boot, counter = _HEADER.unpack_from(packet)
        if magic != _MAGIC or version != _VERSION or counter >= COUNTER_MAX:
            return "foreign"
        if sender == self._self:
            return "self"
        self._forget_retired_keys()
        known = self._senders.get(sender)
        if known is not None and known.boot != boot:
            if self._is_stale(known, boot):
                self._weigh(packet, known, now_s)
                return "stale_boot"
            known = known.at(boot)
        opener = None if known is None else known.openers.get(key_id)
        if opener is None:
            derived = self._derive(key_id, sender, boot, now_s, known)
            if isinstance(derived, str):
                return derived
            opener = derived
        if not opener.window.is_new(counter):
            return "replay"
        header = packet[:HEADER_BYTES]
        try:
            payload = opener.cipher.decrypt(_NONCE.pack(counter), packet[HEADER_BYTES:], header)
        except InvalidTag:
            return "tag"
        node = NodeId(sender.hex()) if known is None else known.node
        if node in self._expelled:
            return "expelled"
        known = known or self._remember(sender, boot)
        self._used(known, key_id, opener, counter)
        return OpenedPacket(known.node, known.boot, payload)

    @staticmethod
    def _is_stale(kept: _Sender, boot: int) -> bool:
        """True if a boot is older than one that counts."""
        if boot < kept.boot:
            return kept.is_proven or not kept.is_fading
        return kept.heir is not None and boot < kept.heir.boot and not kept.heir.is_fading

    def _weigh(self, packet: bytes, kept: _Sender, now_s: float) -> None:
        """Ask for a meeting with whoever seems to live in an older boot than the one heard, if the packet is genuine.

        Looked at once in `DOUBT_EVERY_S`, so that packets recorded in a former life cost next to nothing.
        """
        _, _, key_id, sender, boot, counter = _HEADER.unpack_from(packet)
        is_settled = kept.is_proven and boot < kept.boot
        if is_settled or now_s < self._doubt_s:
            return
        self._doubt_s = now_s + DOUBT_EVERY_S
        key = self._keyring.find(key_id)
        if key is None or kept.node in self._expelled:
            return
        try:
            AESGCM(subkey(key, sender, boot)).decrypt(
                _NONCE.pack(counter), packet[HEADER_BYTES:], packet[:HEADER_BYTES]
            )
        except InvalidTag:
            return
        self.on_doubt(kept.node)

    @staticmethod
    def _used(known: _Sender, key_id: int, opener: _Opener, counter: int) -> None:
        """Keep what opened a packet, for the next ones, and never take this one again."""
        if known.openers.get(key_id) is not opener:
            known.openers[key_id] = opener
            known.windows[opener.key] = opener.window
            known.is_fading = False
        opener.window.add(counter)

    def _open_short(self, packet: bytes) -> OpenedPacket | str:
        """Open a packet of a sender whose id, boot and window are known here already."""
        if len(packet) < SHORT_OVERHEAD_BYTES:
            return "short"
        _, key_id, short, high, low = _SHORT_HEADER.unpack_from(packet)
        counter = high << 32 | low
        if short == self._self[:_SHORT_SENDER_BYTES]:
            return "self"
        self._forget_retired_keys()
        known = self._shorts.get(short)
        if known is None:
            return "unknown_sender"
        if known.heir is not None:
            opened = self._open_short_of(known.heir, packet, key_id, counter)
            if isinstance(opened, OpenedPacket):
                return opened
        return self._open_short_of(known, packet, key_id, counter)

    def _open_short_of(self, known: _Sender, packet: bytes, key_id: int, counter: int) -> OpenedPacket | str:
        """Open a short packet as one of that boot of its sender."""
        opener = known.openers.get(key_id)
        if opener is None:
            derived = self._derive(key_id, known.sender, known.boot, 0.0, known)
            if isinstance(derived, str):
                return derived
            opener = derived
        if not opener.window.is_new(counter):
            return "replay"
        header = _HEADER.pack(_MAGIC, _SHORT_VERSION, key_id, known.sender, known.boot, counter)
        try:
            payload = opener.cipher.decrypt(_NONCE.pack(counter), packet[SHORT_HEADER_BYTES:], header)
        except InvalidTag:
            return "tag"
        if known.node in self._expelled:
            return "expelled"
        self._used(known, key_id, opener, counter)
        return OpenedPacket(known.node, known.boot, payload, is_short=True)

    def note_boot(self, sender: NodeId, boot: BootId) -> None:
        """Take a member's boot as proven by TLS: older boots are stale, higher ones that packets told are forgotten."""
        raw = bytes.fromhex(sender)
        if raw == self._self:
            return
        known = self._senders.get(raw)
        if known is not None and known.heir is not None and known.heir.boot == boot:
            known = self._senders[raw] = self._replace_short(known.heir)
        elif known is None or known.boot < boot or (known.boot > boot and not known.is_proven):
            known = self._keep(raw, boot)
        if known.boot == boot:
            known.is_proven, known.heir = True, None

    def forget(self, sender: NodeId) -> None:
        """Forget a member that is gone for good."""
        self._drop_sender(bytes.fromhex(sender))

    def _remember(self, sender: bytes, boot: int) -> _Sender:
        """Keep a boot that a packet has told."""
        known = self._senders.get(sender)
        if known is None or not known.is_proven:
            return self._keep(sender, boot)
        known.heir = _Sender(sender, boot)
        return known.heir

    def _keep(self, sender: bytes, boot: int) -> _Sender:
        """Keep a boot instead of whatever was kept of its sender."""
        if len(self._senders) >= SENDERS_MAX and sender not in self._senders:
            self._drop_sender(next(iter(self._senders)))
        known = self._senders[sender] = _Sender(sender, boot)
        return self._replace_short(known)

    def _replace_short(self, known: _Sender) -> _Sender:
        """Let the short form stand for this boot of its sender, unless two senders share it."""
        short = known.sender[:_SHORT_SENDER_BYTES]
        if len(self._shorts) > 2 * SENDERS_MAX:
            self._forget_shared()
        other = self._shorts.get(short, known)
        self._shorts[short] = known if other is not None and other.sender == known.sender else None
        return known

    def _drop_sender(self, sender: bytes) -> None:
        known = self._senders.pop(sender, None)
        short = sender[:_SHORT_SENDER_BYTES]
        # Where two shared the short form, the one that stays goes on with long headers: ids are random, that is rare.
        if known is not None and self._shorts.get(short) is known:
            del self._shorts[short]

    def _forget_shared(self) -> None:
        """Drop short forms that senders shared who are gone: whoever holds the key could make any number of them."""
        kept = {sender[:_SHORT_SENDER_BYTES] for sender in self._senders}
        self._shorts = {short: known for short, known in self._shorts.items() if short in kept}

    def _derive(self, key_id: int, sender: bytes, boot: int, now_s: float, known: _Sender | None) -> _Opener | str:
        key = self._keyring.find(key_id)
        if key is None:
            return "unknown_key"
        if known is None:
            elapsed_s = max(0.0, now_s - self._derived_s)
            self._derivations = min(float(DERIVATIONS_PER_S), self._derivations + elapsed_s * DERIVATIONS_PER_S)
            self._derived_s = now_s
            if self._derivations < 1.0:
                return "rate"
            self._derivations -= 1.0
        window = known.windows.get(key.key) if known is not None else None
        return _Opener(key.key, AESGCM(subkey(key, sender, boot)), window or ReplayWindow())

    def _forget_retired_keys(self) -> None:
        """When the keyring has changed, keys of retired epochs must not open anything any more."""
        if self._revision == self._keyring.revision:
            return
        self._revision = self._keyring.revision
        held = {key.key for key in self._keyring.keys}
        for kept in self._senders.values():
            for known in (kept,) if kept.heir is None else (kept, kept.heir):
                known.openers.clear()
                known.windows = {key: window for key, window in known.windows.items() if key in held}
                known.is_fading = not known.windows
