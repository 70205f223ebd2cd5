"""Where saved snapshots are kept: whole objects by key. The port, and its form on a directory.

A key is ``folder/name``. An object is there whole or not at all; what `put` and `create` returned from is durable, and
every reader sees it. S3 has kept these promises since December 2020, a directory keeps them by rename and fsync.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from frys_node.base.errors import UsageError
from frys_node.base.ports import Disk, Executor

OBJECT_BYTES_MAX: Final = 32 << 20
"""The largest object that is ever written or read: a manifest of 262,144 chunks has 12 MiB. It is far below what S3
takes in one request (5 GiB), so that there are no multi-part uploads, whose leftovers nobody sees and everybody
pays."""


class Objects(Protocol):
    """Objects of one place. Every call may be cancelled between requests and repeated."""

    @property
    def place(self) -> str:
        """The place, for people: ``s3://bucket/prefix`` or a path."""
        ...

    async def get(self, key: str) -> bytes | None:
        """Return an object, None if there is none.

        Raises:
            StorageError: The place cannot be read; see `snapshots.errors`.
        """
        ...

    async def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing one of that key; durable when it returns."""
        ...

    async def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none of that key; False if there is. One of several writers wins."""
        ...

    async def list(self, folder: str) -> Mapping[str, int]:
        """Names and sizes in bytes of the objects of a folder, sorted by name."""
        ...

    async def folders(self) -> Sequence[str]:
        """Names of all folders, if format 1 was ever written to a place of this kind; else nothing."""
        ...

    async def remove(self, keys: Sequence[str]) -> None:
        """Remove objects, or whole folders of format 1; those that are missing are no error."""
        ...


def check_size(key: str, data: bytes) -> None:
    """Refuse an object over `OBJECT_BYTES_MAX` before anything is sent."""
    if len(data) > OBJECT_BYTES_MAX:
        raise UsageError(
            f"object '{key}' of {len(data)} bytes is over the limit of {OBJECT_BYTES_MAX}",
            hint="save fewer units in one snapshot (--unit)",
        )


class DirectoryObjects:
    """`Objects` on a directory of a disk."""

    def __init__(self, disk: Disk, executor: Executor, *, place: str, directory: str = "") -> None:
        self._disk = disk
        self._executor = executor
        self._place = place
        self._prefix = f"{directory}/" if directory else ""

    @property
    def place(self) -> str:
        """The directory's path."""
        return self._place

    async def get(self, key: str) -> bytes | None:
        """Return an object, None if there is none."""
        return await self._executor.run(self._disk.read, self._prefix + key)

    async def put(self, key: str, data: bytes) -> None:
        """Write an object, replacing one of that key."""
        check_size(key, data)
        await self._executor.run(self._put, self._prefix + key, data)

    def _put(self, path: str, data: bytes) -> None:
        # Several machines may share the directory: `create` is safe against a writer of the same bytes, `write` is not.
        if not self._disk.create(path, data) and self._disk.read(path) != data:
            self._disk.write(path, data)

    async def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none of that key; False if there is."""
        check_size(key, data)
        return await self._executor.run(self._disk.create, self._prefix + key, data)

    async def list(self, folder: str) -> Mapping[str, int]:
        """Names and sizes of a folder's objects."""
        return await self._executor.run(self._list, self._prefix + folder)

    def _list(self, folder: str) -> dict[str, int]:
        return {name: self._disk.size_bytes(f"{folder}/{name}") for name in self._disk.list(folder)}

    async def folders(self) -> Sequence[str]:
        """Names of what is in the directory."""
        return await self._executor.run(self._disk.list, self._prefix.rstrip("/"))

    async def remove(self, keys: Sequence[str]) -> None:
        """Remove objects."""
        for key in keys:
            await self._executor.run(self._disk.remove, self._prefix + key)
