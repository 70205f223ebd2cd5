"""A sealed file as its reader meets it: told about without a key, proven and taken apart with one."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, Self

from frys_node.cli.admin import bytes_text
from frys_node.cli.files import FileFailed, failed
from frys_node.secure.kem import load_kem
from frys_node.secure.recipient import SealKey, shown
from frys_node.secure.sealed import Opener, content_bytes
from frys_node.secure.sealed_header import cut_off, read_head
from snapshots.archive import ArchiveReader, Inventory, Item, Kind, index_of
from snapshots.errors import CorruptExport

READ_BYTES: Final = 1 << 20
PROGRESS_S: Final = 0.2


class SealedFile:
    """A sealed file of the command's user; may be read several times."""

    def __init__(self, path: Path, key: SealKey | None) -> None:
        self.path = path
        self._key = key
        self._size_bytes = 0

    def __enter__(self) -> Self:
        try:
            self._file: IO[bytes] = self.path.open("rb")
            about = os.fstat(self._file.fileno())
        except OSError as error:
            raise failed("read", self.path, error) from error
        if not stat.S_ISREG(about.st_mode):
            self._file.close()
            raise FileFailed(f"{self.path} is no regular file", hint="it is read twice: write it to disk first")
        self._size_bytes = about.st_size
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def about(self) -> dict[str, Any]:
        """Return what can be told without a key."""
        front = next(self._pieces(), b"")
        head = read_head(front)
        size = None if head is None else content_bytes(self._size_bytes - head.size_bytes)
        if head is None or size is None:
            raise cut_off(self._size_bytes)
        return {
            "file": str(self.path),
            "format": head.version,
            "size_bytes": self._size_bytes,
            "content_bytes": size,
            "recipients": [shown(entry.fingerprint) for entry in head.entries],
            "is_proven": False,
        }

    def check(self) -> Inventory:
        """Read all of the file and return what is in it, once it is known to be whole."""
        inventory = Inventory(self._size_bytes)
        for item in self.items("checked"):
            inventory.take(item)
        inventory.finish()
        return inventory

    def again(self, what: str, checked: Inventory) -> Iterator[Item]:
        """Yield the objects once more.

        Raises:
            CorruptExport: They are not those that were checked. The first is the index; that others differ is known
                at the end at the latest.
        """
        inventory = Inventory(self._size_bytes)
        for item in self.items(what):
            if item.kind is Kind.INDEX and index_of(item.data) != checked.finish():
                raise self._changed()
            inventory.take(item)
            yield item
        if inventory.digest != checked.digest:
            raise self._changed()

    def _changed(self) -> CorruptExport:
        return CorruptExport(
            f"{self.path} was changed while it was read", hint="import it again when nobody writes it any more"
        )

    def items(self, what: str) -> Iterator[Item]:
        """Yield the objects in the file, from its beginning; that they are all is known at the end."""
        reader = ArchiveReader()
        for content in self._contents(what):
            yield from reader.push(content)
        reader.finish()

    def _contents(self, what: str) -> Iterator[bytes]:
        assert self._key is not None
        opener = Opener(self._key, kem=load_kem(self._key.provider))
        progress = Progress(what, self._size_bytes)
        done = 0
        for data in self._pieces():
            yield opener.push(data)
            done += len(data)
            progress.show(done)
        yield opener.finish()
        progress.end()

    def _pieces(self) -> Iterator[bytes]:
        try:
            self._file.seek(0)
            while data := self._file.read(READ_BYTES):
                yield data
        except OSError as error:
            raise failed("read", self.path, error) from error


class Progress:
    """How far a long work is, on standard error if that is a terminal."""

    def __init__(self, what: str, total_bytes: int) -> None:
        self._what = what
        self._total = total_bytes
        self._is_shown = sys.stderr.isatty()
        self._shown_s = 0.0

    def show(self, done_bytes: int) -> None:
        """Tell it, a few times a second."""
        if self._is_shown and time.monotonic() - self._shown_s >= PROGRESS_S:
            self._shown_s = time.monotonic()
            total = f" of {bytes_text(self._total)}" if self._total else ""
            print(f"\r\033[K{self._what} {bytes_text(done_bytes)}{total}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if self._is_shown and self._shown_s:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
