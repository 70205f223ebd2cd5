"""What only members may know, kept on disk and exchanged on every ``frys/1`` connection.

The gossip keyring, the hashes of the admin tokens, and the node ids that were expelled. Keys and hashes are taken from
any authenticated member (each holds them anyway); expulsions only from the issuer, or one member could expel another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from frys_node.base.errors import StorageError
from frys_node.base.ports import Disk
from frys_node.base.types import NodeId
from frys_node.channel.messages import Credentials
from frys_node.secure.admin import AdminTokens
from frys_node.secure.api_tokens import ApiTokens
from frys_node.secure.keyring import KEYRING_PATH, Keyring
from frys_node.secure.stored import read_secret

REVOKED_PATH: Final = "identity/revoked"
REVOKED_MAX = 16_384


class MemberSecrets:
    """This node's copy; `on_change` runs after each change that came from outside or from here."""

    __slots__ = ("_disk", "admin", "keyring", "on_change", "revoked", "tokens")

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        stored = read_secret(disk, KEYRING_PATH)
        self.keyring = Keyring() if stored is None else Keyring.decode(stored)
        self.admin = AdminTokens.load(disk)
        self.tokens = ApiTokens(disk)
        self.revoked: dict[NodeId, None] = {
            NodeId(line): None for line in (disk.read(REVOKED_PATH) or b"").decode().split() if line
        }
        self.on_change: Callable[[], None] = _nothing

    def offer(self) -> Credentials:
        """What to tell another member."""
        return Credentials(self.keyring.keys, self.admin.hashes, tuple(self.revoked))

    def take(self, offered: Credentials, *, from_issuer: bool) -> bool:
        """Merge what another member told; True if anything changed (it is durable then).

        Raises:
            StorageError: The disk refused; what was learned is used all the same, and comes again after a restart.
        """
        has_keys = self.keyring.merge(offered.keys, from_issuer=from_issuer)
        has_hashes = self.admin.merge(offered.admin_hashes)
        has_revoked = from_issuer and self._merge_revoked(NodeId(node) for node in offered.revoked)
        if not (has_keys or has_hashes or has_revoked):
            return False
        try:
            if has_keys:
                self._disk.write(KEYRING_PATH, self.keyring.encode())
            if has_hashes:
                self.admin.save(self._disk)
            if has_revoked:
                self._save_revoked()
        except StorageError:
            self.on_change()
            raise
        self.on_change()
        return True

    def rotate(self, key: bytes) -> None:
        """Add a gossip key, durably, and have it told to everybody.

        Raises:
            StorageError: The disk refused. Nothing changed.
        """
        grown = Keyring.decode(self.keyring.encode())
        grown.rotate(key)
        self._disk.write(KEYRING_PATH, grown.encode())
        self.keyring.merge(grown.keys)
        self.on_change()

    def revoke(self, node: NodeId) -> None:
        """Expel a node, durably."""
        if self._merge_revoked((node,)):
            self._save_revoked()
            self.on_change()

    def _merge_revoked(self, nodes: Iterable[NodeId]) -> bool:
        has_changed = False
        for node in nodes:
            if node not in self.revoked and len(self.revoked) < REVOKED_MAX:
                self.revoked[node] = None
                has_changed = True
        return has_changed

    def _save_revoked(self) -> None:
        self._disk.write(REVOKED_PATH, "\n".join(self.revoked).encode())


def _nothing() -> None:
    """Nobody listens yet."""
    return
