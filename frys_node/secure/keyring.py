"""The gossip keyring: up to three epoch keys, which travel inside ``frys/1`` connections only (D2).

Sans-I/O. The issuer makes epoch 1 when it creates the cluster. Every new connection exchanges keyrings, and both ends
keep the three highest epochs of the union. On the same epoch with different keys the issuer's is right. Any
authenticated member is believed, because whoever is a member holds these keys anyway: what a keyring protects against
is everybody else. A key is first installed everywhere and only then sealed with: the primary key is the highest epoch
as of the last `promote`, which whoever took a newer key calls once it had time to reach the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from frys_node.base.errors import CorruptData

KEY_BYTES: Final = 32
EPOCHS_MAX = 3
KEYRING_PATH: Final = "identity/keyring"


class EpochKey(msgspec.Struct, frozen=True, array_like=True):
    """One key: its epoch (1 and up) and 32 bytes."""

    epoch: int
    key: bytes

    def __repr__(self) -> str:
        return f"EpochKey(epoch={self.epoch})"


class Keyring:
    """The keys this node holds, highest epoch first."""

    __slots__ = ("_keys", "_primary", "revision")

    def __init__(self, keys: Iterable[EpochKey] = ()) -> None:
        self._keys: tuple[EpochKey, ...] = ()
        self._primary = 0
        """Epoch of the primary key; 0 while there is none."""
        self.revision = 0
        """Grows with each change, so that holders of derived keys know when to forget them."""
        self.merge(keys)

    @property
    def keys(self) -> tuple[EpochKey, ...]:
        """All keys, highest epoch first."""
        return self._keys

    @property
    def primary(self) -> EpochKey | None:
        """The key to seal with; None until the first keyring has arrived."""
        return next((key for key in self._keys if key.epoch == self._primary), None)

    @property
    def is_settled(self) -> bool:
        """True if no newer key waits for its promotion."""
        return not self._keys or self._keys[0].epoch == self._primary

    def promote(self) -> None:
        """Seal with the newest key from now on."""
        if not self.is_settled:
            self._primary = self._keys[0].epoch
            self.revision += 1

    def find(self, key_id: int) -> EpochKey | None:
        """Return the key whose epoch ends in this byte."""
        for key in self._keys:
            if key.epoch & 0xFF == key_id:
                return key
        return None

    def merge(self, keys: Iterable[EpochKey], *, from_issuer: bool = False) -> bool:
        """Take another member's keys; True if anything changed. Malformed keys are ignored."""
        union = {key.epoch: key for key in self._keys}
        for key in keys:
            is_sound = 1 <= key.epoch < 1 << 32 and len(key.key) == KEY_BYTES
            if is_sound and (from_issuer or key.epoch not in union):
                union[key.epoch] = key
        merged = tuple(sorted(union.values(), key=lambda key: -key.epoch)[:EPOCHS_MAX])
        if merged == self._keys:
            return False
        self._keys = merged
        self.revision += 1
        if self.primary is None:
            # The first keyring, or one whose epochs have all gone by here: there is nothing else to seal with.
            self.promote()
        return True

    def rotate(self, key: bytes) -> EpochKey:
        """Add a key of a new epoch and return it; the oldest of more than three is dropped."""
        added = EpochKey(self._keys[0].epoch + 1 if self._keys else 1, key)
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
