"""A disk in memory that forgets what was not synced, as disks do.

The model: a file is a durable prefix and unsynced appends behind it; `write`, `truncate` and `remove` are durable at
once, as the port demands. `crash` drops, tears or keeps the unsynced part. It needs no trio, so that the simulator
and drivers share it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from enum import StrEnum

from frys_node.base.errors import StorageError
from frys_node.transport.disk import check_path
from frys_node.transport.errors import FilePoisoned, StorageFull, StorageReadOnly

SECTOR_BYTES = 64
"""Granularity of reordered writes in `Tear.SECTORS`."""


class PowerLost(BaseException):
    """The machine lost power inside a disk call (`FakeDisk.crash_call`). Not an error that code may catch."""

    def __init__(self, disk: FakeDisk) -> None:
        super().__init__("power lost inside a disk call")
        self.disk = disk


class Tear(StrEnum):
    """What a crash does to unsynced bytes."""

    LOST = "lost"
    """They vanish; files never synced vanish whole."""
    TORN = "torn"
    """A random prefix of each file's unsynced bytes stays."""
    SECTORS = "sectors"
    """A random subset of unsynced sectors stays, zeros between them: the disk reordered the writes."""
    KEPT = "kept"
    """All stay: only the process died, the kernel lived."""


class Failure(StrEnum):
    """How a planned call fails."""

    IO = "io"
    FULL = "full"
    READ_ONLY = "read_only"


class _File:
    """Content; the first `synced` bytes and, if `is_named`, the name survive a crash."""

    __slots__ = ("data", "is_named", "synced")

    def __init__(self, data: bytes = b"", *, is_named: bool = False) -> None:
        self.data = bytearray(data)
        self.synced = len(data) if is_named else 0
        self.is_named = is_named


class FakeDisk:
    """`Disk` in memory, with crashes and faults.

    `read_only` and `capacity_bytes` may be changed while it is used. `calls` counts the changing calls, in the order
    that `fail_call` numbers them.
    """

    def __init__(self, *, capacity_bytes: int | None = None, read_only: bool = False) -> None:
        self.capacity_bytes = capacity_bytes
        self.read_only = read_only
        self.calls = 0
        self.syncs = 0
        self.crashes = 0
        self._files: dict[str, _File] = {}
        self._failures: dict[int, Failure] = {}
        self._poisoned: set[str] = set()
        self._power_lost_at = 0
        self.failures_met = 0
        """Planned failures that calls met since the last crash."""

    def calm(self) -> None:
        """Forget every failure and crash that is still planned."""
        self._failures.clear()
        self._power_lost_at = 0

    def crash_call(self, number: int) -> None:
        """Lose power inside the changing call with this number: it raises `PowerLost`, having done nothing; 0 never."""
        self._power_lost_at = number

    def fail_call(self, number: int, failure: Failure = Failure.IO) -> None:
        """Make the changing call with this number (the first ever is 1) fail; the disk works again after it."""
        self._failures[number] = failure

    def fail_next(self, failure: Failure = Failure.IO) -> None:
        """Make the next changing call fail."""
        self.fail_call(self.calls + 1, failure)

    def flip_bit(self, path: str, bit: int) -> None:
        """Rot: flip one bit of a stored file."""
        self._files[path].data[bit // 8] ^= 1 << (bit % 8)

    def unsynced_bytes(self, path: str) -> int:
        """Bytes of the file that a crash may take."""
        file = self._files.get(path)
        return len(file.data) - file.synced if file else 0

    def crash(
        self,
        tear: Tear = Tear.LOST,
        rng: random.Random | None = None,
        keep_bytes: Mapping[str, int] | None = None,
    ) -> int:
        """Lose power and come back; returns how many unsynced bytes were lost or zeroed.

        Args:
            tear: What happens to unsynced bytes.
            rng: Needed by ``torn`` and ``sectors``.
            keep_bytes: Tear these files at an exact count of unsynced bytes instead.
        """
        self.crashes += 1
        self.failures_met = 0
        self.calm()
        self._poisoned.clear()
        lost = 0
        for path in sorted(self._files):
            file = self._files[path]
            unsynced = len(file.data) - file.synced
            if keep_bytes is not None and path in keep_bytes:
                kept = min(unsynced, keep_bytes[path])
                stays = True
            elif tear is Tear.KEPT:
                kept, stays = unsynced, True
            elif tear is Tear.LOST:
                kept, stays = 0, False
            elif tear is Tear.TORN:
                assert rng is not None, "a torn crash needs a generator"
                kept, stays = rng.randint(0, unsynced), rng.random() < 0.5
            else:
                assert rng is not None, "a sector crash needs a generator"
                lost += self._drop_sectors(file, rng)
                kept, stays = len(file.data) - file.synced, rng.random() < 0.5
            if not (file.is_named or stays):
                lost += len(file.data)
                del self._files[path]
                continue
            lost += unsynced - kept if tear is not Tear.SECTORS else 0
            del file.data[file.synced + kept :]
            # What a reboot finds on the disk is durable.
            file.synced, file.is_named = len(file.data), True
        return lost

    @staticmethod
    def _drop_sectors(file: _File, rng: random.Random) -> int:
        """Zero a random subset of the unsynced sectors and cut a random number off the end."""
        lost = 0
        end = file.synced
        for start in range(file.synced, len(file.data), SECTOR_BYTES):
            stop = min(start + SECTOR_BYTES, len(file.data))
            if rng.random() < 0.5:
                end = stop
            else:
                file.data[start:stop] = bytes(stop - start)
                lost += stop - start
        del file.data[end:]
        return lost

    def read(self, path: str) -> bytes | None:
        """Return the whole file, or None if there is none."""
        file = self._files.get(check_path(path))
        return bytes(file.data) if file else None

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Replace the file atomically and durably; cures a poisoned file. Not durable, a crash may take all of it."""
        held = len(self._files[path].data) if path in self._files else 0
        self._begin("write", path, len(data) - held)
        self._files[path] = _File(data, is_named=durable)
        self._poisoned.discard(path)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file durably if there is none of that name; False if there is one."""
        if check_path(path) in self._files:
            return False
        self._begin("create", path, len(data))
        self._files[path] = _File(data, is_named=True)
        return True

    def append(self, path: str, data: bytes) -> None:
        """Append without syncing; created when missing. A failed append leaves the file as it was."""
        self._check_poison(path)
        self._begin("append to", path, len(data))
        file = self._files.get(path)
        if file is None:
            file = self._files[path] = _File()
        file.data += data

    def sync(self, path: str) -> None:
        """Make all appends to the file durable; a failed sync poisons the file."""
        self._check_poison(path)
        file = self._files.get(path)
        if file is None:
            return
        try:
            self._begin("sync", path, 0)
        except StorageError:
            self._poisoned.add(path)
            raise
        self.syncs += 1
        file.synced, file.is_named = len(file.data), True

    def truncate(self, path: str, size_bytes: int) -> None:
        """Cut the file to a size, durably; a file that is shorter or missing stays as it is."""
        check_path(path)
        file = self._files.get(path)
        if file is None or len(file.data) <= size_bytes:
            return
        self._check_poison(path)
        self._begin("truncate", path, 0)
        del file.data[size_bytes:]
        file.synced, file.is_named = len(file.data), True

    def size_bytes(self, path: str) -> int:
        """Size of the file, 0 if there is none."""
        file = self._files.get(check_path(path))
        return len(file.data) if file else 0

    def list(self, directory: str) -> Sequence[str]:
        """Names in a directory, sorted; empty if there is none."""
        inner = check_path(directory, allow_root=True)
        prefix = f"{inner}/" if inner else ""
        names = {path[len(prefix) :].split("/", 1)[0] for path in self._files if path.startswith(prefix)}
        return sorted(names)

    def remove(self, path: str) -> None:
        """Remove a file or a whole directory, durably; nothing happens when it is missing."""
        check_path(path)
        gone = [name for name in self._files if name == path or name.startswith(path + "/")]
        if not gone:
            return
        self._begin("remove", path, 0)
        for name in gone:
            del self._files[name]
            self._poisoned.discard(name)

    def wipe(self) -> None:
        """Forget everything: the disk was replaced."""
        self._files.clear()
        self._poisoned.clear()

    @property
    def used_bytes(self) -> int:
        """Bytes held by all files."""
        return sum(len(file.data) for file in self._files.values())

    def _check_poison(self, path: str) -> None:
        if check_path(path) in self._poisoned:
            raise FilePoisoned(f"an earlier sync of '{path}' failed", hint="check the disk, then restart the node")

    def _begin(self, action: str, path: str, growth: int) -> None:
        """Count a changing call and raise what it was planned to meet."""
        check_path(path)
        self.calls += 1
        if self.calls == self._power_lost_at:
            raise PowerLost(self)
        failure = self._failures.pop(self.calls, None)
        self.failures_met += failure is not None
        if self.read_only or failure is Failure.READ_ONLY:
            raise StorageReadOnly(f"cannot {action} '{path}': Read-only file system")
        over = self.capacity_bytes is not None and growth > 0 and self.used_bytes + growth > self.capacity_bytes
        if over or failure is Failure.FULL:
            raise StorageFull(f"cannot {action} '{path}': No space left on device")
        if failure is Failure.IO:
            raise StorageError(f"cannot {action} '{path}': Input/output error")
