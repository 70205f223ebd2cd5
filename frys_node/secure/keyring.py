"""The gossip keyring: up to three epoch keys, which travel inside ``frys/1`` connections only (D2).

Sans-I/O. The issuer makes epoch 1 when it creates the cluster. Every new connection exchanges keyrings, and both ends
keep the three highest keys of the union. Keys are signed by the cluster's authority (`statements`), so a member that
is about to be expelled cannot plant one of its own; who merges has checked that. A key is first installed everywhere
and only then sealed with: the primary key is the highest as of the last `promote`, which whoever took a newer key
calls once it had time to reach the others.

A key says how many nodes had been expelled when it was made. That counts before its epoch: a key that an expelled node
may know never wins against one that it was not given, wherever the two meet, and `retire` deletes the former.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from frys_node.base.errors import CorruptData, SecurityError

KEY_BYTES: Final = 32
EPOCHS_MAX = 3
EPOCH_MAX: Final = (1 << 32) - 1
KEYRING_PATH: Final = "identity/keyring"


class EpochKey(msgspec.Struct, frozen=True, array_like=True):
    """One key: its epoch (1 and up) and 32 bytes, and what the authority signs with them."""

    epoch: int
    key: Annotated[bytes, msgspec.Meta(max_length=64)]
    made_unix_s: int = 0
    """When the issuer made it, by its wall clock; 0 if that was not noted."""
    expelled: int = 0
    """How many nodes had been expelled by then: none of them was given it."""
    signature: Annotated[bytes, msgspec.Meta(max_length=4_096)] = b""
    """The authority's, over all of this; empty in keys of the first format."""

    def __repr__(self) -> str:
        return f"EpochKey(epoch={self.epoch})"

    @property
    def rank(self) -> tuple[int, int]:
        """What orders keys: the expelled first, then the epoch."""
        return self.expelled, self.epoch

    @property
    def is_sound(self) -> bool:
        """True if the numbers are in range and the key has its length."""
        return (
            1 <= self.epoch <= EPOCH_MAX
            and len(self.key) == KEY_BYTES
            and 0 <= self.made_unix_s < 1 << 63
            and 0 <= self.expelled < 1 << 31
        )


class Keyring:
    """The keys this node holds, highest first."""

    __slots__ = ("_floor", "_keys", "_primary", "revision")

    def __init__(self, keys: Iterable[EpochKey] = ()) -> None:
        self._keys: tuple[EpochKey, ...] = ()
        self._primary = 0
        """Epoch of the primary key; 0 while there is none."""
        self._floor = 0
        """Keys that were made when fewer nodes had been expelled are retired and come in no more."""
        self.revision = 0
        """Grows with each change, so that holders of derived keys know when to forget them."""
        self.merge(keys)
        self._floor = min((key.expelled for key in self.keys), default=0)

    @property
    def keys(self) -> tuple[EpochKey, ...]:
        """All keys, highest first."""
        return self._keys

    @property
    def newest(self) -> EpochKey | None:
        """The key that is sealed with, or will be as soon as it is promoted."""
        return self._keys[0] if self._keys else None

    @property
    def primary(self) -> EpochKey | None:
        """The key to seal with; None until the first keyring has arrived."""
        return next((key for key in self._keys if key.epoch == self._primary), None)

    @property
    def next_epoch(self) -> int:
        """The epoch of the next key.

        Raises:
            SecurityError: All are used up, which takes a rotation a second for 136 years.
        """
        epoch = 1 + max((key.epoch for key in self._keys), default=0)
        if epoch > EPOCH_MAX:
            raise SecurityError("the epochs of the gossip keyring are used up", hint="make a new cluster")
        return epoch

    @property
    def is_settled(self) -> bool:
        """True if no newer key waits for its promotion."""
        return not self._keys or self._keys[0].epoch == self._primary

    @property
    def has_retired(self) -> bool:
        """True if `retire` has something to delete."""
        return self.is_settled and any(key.expelled < self._keys[0].expelled for key in self._keys)

    def promote(self) -> None:
        """Seal with the newest key from now on."""
        if not self.is_settled:
            self._primary = self._keys[0].epoch
            self.revision += 1

    def retire(self) -> bool:
        """Delete what an expelled node may know, for good; True if there was anything. Nothing before the promotion."""
        if not self.has_retired:
            return False
        self._floor = self._keys[0].expelled
        self._keys = tuple(key for key in self._keys if key.expelled == self._floor)
        self.revision += 1
        return True

    def find(self, key_id: int) -> EpochKey | None:
        """Return the key whose epoch ends in this byte; of two, the higher one."""
        for key in self._keys:
            if key.epoch & 0xFF == key_id:
                return key
        return None

    def merge(self, keys: Iterable[EpochKey], *, from_issuer: bool = False) -> bool:
        """Take another member's keys; True if anything changed. Malformed and retired keys are ignored."""
        union = {key.epoch: key for key in self._keys}
        for key in keys:
            if not key.is_sound or key.expelled < self._floor:
                continue
            held = union.get(key.epoch)
            if held is None or _wins(key, held, from_issuer=from_issuer):
                union[key.epoch] = key
        ordered = sorted(union.values(), key=lambda key: key.rank, reverse=True)
        # A later key of an issuer that did not know of an expulsion is not to be sealed with by anybody who does.
        merged = tuple(k for k in ordered if k.expelled == ordered[0].expelled or k.epoch < ordered[0].epoch)
        merged = merged[:EPOCHS_MAX]
        if merged == self._keys:
            return False
        self._keys = merged
        self.revision += 1
        if self.primary is None:
            # The first keyring, or one whose epochs have all gone by here: there is nothing else to seal with.
            self.promote()
        return True

    def rotate(self, key: bytes) -> EpochKey:
        """Add a key of a new epoch, unsigned, and return it; the oldest of more than three is dropped."""
        expelled = self._keys[0].expelled if self._keys else 0
        added = EpochKey(self.next_epoch, key, expelled=expelled)
        self.merge((added,))
        return added

    def encode(self) -> bytes:
        """Return the keyring's bytes, for the disk."""
        return msgspec.msgpack.encode(self._keys)

    @classmethod
    def decode(cls, data: bytes) -> Keyring:
        """Read `encode`'s bytes.

        Raises:
            CorruptData: They are damaged.
        """
        try:
            return cls(msgspec.msgpack.decode(data, type=tuple[EpochKey, ...]))
        except msgspec.MsgspecError as error:
            raise CorruptData(
                f"the keyring is damaged: {error}", hint=f"remove {KEYRING_PATH}; it is sent again"
            ) from error


def _wins(key: EpochKey, held: EpochKey, *, from_issuer: bool) -> bool:
    """True if a key replaces another of its epoch: two issuers made one each, or its signature is new."""
    if key.key == held.key and key.rank == held.rank:
        return from_issuer or not held.signature
    if key.signature and held.signature:
        # Everybody has to choose the same, in whatever order the two arrive.
        return (key.expelled, key.made_unix_s, key.key) > (held.expelled, held.made_unix_s, held.key)
    return from_issuer
