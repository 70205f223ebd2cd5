"""Who was ever given a key of the cluster's authority, and which node each name of a standby stood for.

Sans-I/O: the file ``issuer/entrusted.json`` comes through the `Disk` port. A row is durable before its copy is given
away, and the table travels with each copy, so that whoever becomes the issuer knows it too. A key counts as long as its
authority is trusted: `ca rotate` is what takes it from a node that was given one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from frys_node.base.errors import CorruptData, Overloaded
from frys_node.base.ports import Disk
from frys_node.base.types import NodeId
from frys_node.secure.stored import read_secret

ENTRUSTED_PATH: Final = "issuer/entrusted.json"
ENTRUSTED_MAX = 1_024
"""Rows of authorities that are trusted."""


class Entrusted(msgspec.Struct, frozen=True, order=True):
    """One node has, or had, the key of one authority."""

    node: str
    name: str
    authority: str
    """Hash of the authority's key, as join tokens pin it."""


class EntrustedTable:
    """The rows, on the nodes that hold the key."""

    __slots__ = ("_disk", "_rows")

    def __init__(self, disk: Disk) -> None:
        """Read the table.

        Raises:
            CorruptData: The file is damaged; it is left as it is.
            UnsafePermissions: Another user put it there, or others may read it. It was not used.
        """
        self._disk = disk
        self._rows: set[Entrusted] = set(_decode(read_secret(disk, ENTRUSTED_PATH) or b"[]"))

    def encode(self) -> bytes:
        """Return the file."""
        return msgspec.json.format(msgspec.json.encode(sorted(self._rows)), indent=2)

    def has(self, node: NodeId, trusted: Collection[str]) -> bool:
        """True if the node was given the key of one of these authorities."""
        return any(row.node == node and row.authority in trusted for row in self._rows)

    def pinned(self, name: str, trusted: Collection[str]) -> NodeId | None:
        """Return the node that was given a key under this name; None if nobody was."""
        found = sorted(row.node for row in self._rows if row.name == name and row.authority in trusted)
        return NodeId(found[0]) if found else None

    def note(self, node: NodeId, name: str, authorities: Collection[str], trusted: Collection[str]) -> None:
        """Note, durably, that a node is about to be given the keys of these authorities.

        Raises:
            Overloaded: Too many were given them. Nothing was changed.
            StorageError: The disk refused. Nothing was changed.
        """
        self._keep({Entrusted(node, name, authority) for authority in authorities}, trusted)

    def merge(self, data: bytes, trusted: Collection[str]) -> None:
        """Take the rows of another table; raises as `note` and the constructor do."""
        self._keep(_decode(data or b"[]"), trusted)

    def _keep(self, fresh: Collection[Entrusted], trusted: Collection[str]) -> None:
        if self._rows.issuperset(fresh):
            return
        # Keys of authorities that nobody trusts any more open nothing.
        rows = {row for row in self._rows if row.authority in trusted} | set(fresh)
        if len(rows) > ENTRUSTED_MAX:
            raise Overloaded(
                f"{ENTRUSTED_MAX} nodes were given the authority's key", hint="replace it: frys-node ca rotate"
            )
        before, self._rows = self._rows, rows
        try:
            self._disk.write(ENTRUSTED_PATH, self.encode())
        except BaseException:
            self._rows = before
            raise


def _decode(data: bytes) -> tuple[Entrusted, ...]:
    try:
        return msgspec.json.decode(data, type=tuple[Entrusted, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptData(
            f"{ENTRUSTED_PATH} is damaged: {error}", hint="restore it from a backup, or from a standby of the issuer"
        ) from error
