"""Files under one root directory: 0700 and 0600, atomic writes, honest fsync.

Rules: a write is acknowledged after fsync of the file and, for new names, of its directory. A failed fsync poisons
the file for this process, because the kernel may have dropped the pages and a second fsync would lie (fsyncgate). A
failed append leaves no partial bytes. Paths are checked lexically and the last component is never a link that is
followed; directories may be links, so that an operator can place them on another disk.

Calls may come from several threads: calls on one path are serialised.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from frys_node.base.errors import ConfigError
from frys_node.transport.errors import FilePoisoned, PathRefused, storage_failed

OPEN_FILES_MAX = 32
"""Append files kept open; a later fsync must see errors of earlier writes, so they are not reopened each time."""

_LOCKS = 16
_TEMPORARY = ".~tmp"
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_REPLACE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class DirectoryLocked(ConfigError):
    """Another process uses the data directory. Nothing was opened."""

    code = "storage.locked"
    status = 409


class _Appender:
    """An open append file; `dirty` until its bytes are fsynced, `is_new` until its name is."""

    __slots__ = ("dirty", "fd", "is_new")

    def __init__(self, fd: int, is_new: bool) -> None:
        self.fd = fd
        self.dirty = False
        self.is_new = is_new


def check_path(path: str, *, allow_root: bool = False) -> str:
    """Return the path if it is relative, ``/``-separated and stays inside its root.

    Raises:
        PathRefused: It does not. Nothing was touched.
    """
    if allow_root and path in ("", "."):
        return ""
    parts = path.split("/")
    if not path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise PathRefused(f"'{path}' is not a path inside the data directory", hint="use relative paths without '..'")
    if parts[-1].endswith(_TEMPORARY):
        raise PathRefused(f"'{path}' ends like a temporary file", hint=f"names must not end in '{_TEMPORARY}'")
    return path


class DirectoryDisk:
    """`Disk` on a real directory, which is made (0700) when missing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._base = str(root)
        self._appenders: OrderedDict[str, _Appender] = OrderedDict()
        self._table = threading.Lock()
        self._locks = [threading.RLock() for _ in range(_LOCKS)]
        self._poisoned: set[str] = set()
        self._lock_fd = -1
        try:
            self._make_directories(self._base)
        except NotADirectoryError as error:
            raise PathRefused(f"'{self._base}' is a file, or below one", hint="name a directory") from error
        except OSError as error:
            raise storage_failed("create", self._base, error) from error

    def lock(self) -> None:
        """Claim the directory for this process until `close` or its end.

        Raises:
            DirectoryLocked: Another process has it. Nothing was opened.
        """
        if self._lock_fd >= 0:
            return
        try:
            fd = os.open(f"{self._base}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise storage_failed("lock", self._base, error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise DirectoryLocked(
                f"'{self._base}' is in use by another node", hint="stop that node, or give this one its own --data-dir"
            ) from None
        self._lock_fd = fd

    def close(self) -> None:
        """Close every file and give the directory's lock back. Unsynced appends stay unsynced."""
        with self._table:
            appenders = list(self._appenders.values())
            self._appenders.clear()
        for appender in appenders:
            os.close(appender.fd)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def read(self, path: str) -> bytes | None:
        """Return the whole file, or None if there is none."""
        try:
            fd = os.open(self._full(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise storage_failed("read", path, error) from error
        with os.fdopen(fd, "rb") as file:
            try:
                return file.read()
            except OSError as error:
                raise storage_failed("read", path, error) from error

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Replace the file atomically and, unless told otherwise, durably; a fresh file cures a poisoned one."""
        full = self._full(path)
        with self._path_lock(path):
            self._close_appender(path)
            temporary = full + _TEMPORARY
            try:
                fd = self._open_new(temporary, _REPLACE)
                try:
                    _write_all(fd, data)
                    if durable:
                        os.fsync(fd)
                finally:
                    os.close(fd)
                os.rename(temporary, full)
            except OSError as error:
                with suppress(OSError):
                    os.unlink(temporary)
                raise storage_failed("write", path, error) from error
            if durable:
                self._sync_directory(path, full)
            self._poisoned.discard(path)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file durably if there is none of that name; False, with nothing changed, if there is one."""
        full = self._full(path)
        with self._path_lock(path):
            # A name of its own: another process, perhaps on another machine, may create the same file now.
            temporary = f"{full}.{os.urandom(6).hex()}{_TEMPORARY}"
            try:
                fd = self._open_new(temporary, _REPLACE)
                try:
                    _write_all(fd, data)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.link(temporary, full)
            except FileExistsError:
                return False
            except OSError as error:
                raise storage_failed("create", path, error) from error
            finally:
                with suppress(OSError):
                    os.unlink(temporary)
            self._sync_directory(path, full)
            return True

    def append(self, path: str, data: bytes) -> None:
        """Append without syncing; created when missing. A failed append leaves the file as it was."""
        with self._path_lock(path):
            appender = self._appender(path)
            size = -1
            try:
                size = os.fstat(appender.fd).st_size
                appender.dirty = True
                _write_all(appender.fd, data)
            except OSError as error:
                self._cut_back(path, appender, size)
                raise storage_failed("append to", path, error) from error

    def sync(self, path: str) -> None:
        """Make all appends to the file durable; nothing happens when there is no such file."""
        full = self._full(path)
        with self._path_lock(path):
            appender = self._appenders.get(path)
            if appender is None:
                if not os.path.exists(full):
                    return
                appender = self._appender(path)
                appender.is_new = True
            elif path in self._poisoned:
                raise _poisoned(path)
            try:
                os.fdatasync(appender.fd)
            except OSError as error:
                self._poison(path)
                raise storage_failed("sync", path, error) from error
            if appender.is_new:
                self._sync_directory(path, full)
                appender.is_new = False
            appender.dirty = False

    def truncate(self, path: str, size_bytes: int) -> None:
        """Cut the file to a size, durably; a file that is shorter or missing stays as it is."""
        full = self._full(path)
        with self._path_lock(path):
            if self.size_bytes(path) <= size_bytes or not os.path.exists(full):
                return
            appender = self._appender(path)
            try:
                os.ftruncate(appender.fd, size_bytes)
                os.fsync(appender.fd)
            except OSError as error:
                self._poison(path)
                raise storage_failed("truncate", path, error) from error
            appender.dirty = False

    def size_bytes(self, path: str) -> int:
        """Size of the file, 0 if there is none."""
        try:
            return os.stat(self._full(path), follow_symlinks=False).st_size
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except OSError as error:
            raise storage_failed("look at", path, error) from error

    def mode(self, path: str) -> int | None:
        """Permission bits of the file, None if there is none: files with secrets are refused when others may read."""
        try:
            return stat.S_IMODE(os.stat(self._full(path), follow_symlinks=False).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise storage_failed("look at", path, error) from error

    def is_foreign(self, path: str) -> bool:
        """True if the file is there and belongs neither to this user nor to root: somebody else has put it there."""
        try:
            return os.stat(self._full(path), follow_symlinks=False).st_uid not in (os.geteuid(), 0)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise storage_failed("look at", path, error) from error

    def list(self, directory: str) -> Sequence[str]:
        """Names in a directory, sorted, without temporary files; empty if there is none."""
        inner = check_path(directory, allow_root=True)
        try:
            names = os.listdir(f"{self._base}/{inner}" if inner else self._base)
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise storage_failed("list", directory, error) from error
        return sorted(name for name in names if not name.endswith(_TEMPORARY) and name != ".lock")

    def remove(self, path: str) -> None:
        """Remove a file or a whole directory, durably; nothing happens when it is missing."""
        full = self._full(path)
        with self._path_lock(path):
            for name in [name for name in tuple(self._appenders) if name == path or name.startswith(path + "/")]:
                self._close_appender(name)
                self._poisoned.discard(name)
            self._poisoned.discard(path)
            try:
                if os.path.isdir(full) and not os.path.islink(full):
                    shutil.rmtree(full)
                else:
                    os.unlink(full)
            except (FileNotFoundError, NotADirectoryError):
                return
            except OSError as error:
                raise storage_failed("remove", path, error) from error
            self._sync_directory(path, full)

    def _full(self, path: str) -> str:
        return f"{self._base}/{check_path(path)}"

    def _path_lock(self, path: str) -> threading.RLock:
        return self._locks[zlib.crc32(path.encode()) % _LOCKS]

    def _make_directories(self, directory: str) -> None:
        """Make a directory and its missing parents (0700), each name durable."""
        missing: list[str] = []
        while not os.path.isdir(directory):
            missing.append(directory)
            directory = os.path.dirname(directory) or "."
        for made in reversed(missing):
            try:
                os.mkdir(made, 0o700)
            except FileExistsError:
                if not os.path.isdir(made):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
            _sync_fd(os.path.dirname(made) or ".")

    def _open_new(self, full: str, flags: int) -> int:
        try:
            return os.open(full, flags, 0o600)
        except FileNotFoundError:
            self._make_directories(os.path.dirname(full))
            return os.open(full, flags, 0o600)

    def _appender(self, path: str) -> _Appender:
        """The open file of a path; the caller holds the path's lock."""
        full = self._full(path)
        if path in self._poisoned:
            raise _poisoned(path)
        with self._table:
            appender = self._appenders.get(path)
            if appender is not None:
                self._appenders.move_to_end(path)
                return appender
        try:
            is_new = not os.path.exists(full)
            appender = _Appender(self._open_new(full, _APPEND), is_new)
        except OSError as error:
            raise storage_failed("open", path, error) from error
        with self._table:
            self._appenders[path] = appender
            # Files with unsynced bytes stay open, even above the limit: their fsync must still see write errors.
            idle = [name for name, other in self._appenders.items() if not other.dirty and not other.is_new]
            for name in idle[: max(0, len(self._appenders) - OPEN_FILES_MAX)]:
                lock = self._path_lock(name)
                if name != path and lock.acquire(blocking=False):
                    os.close(self._appenders.pop(name).fd)
                    lock.release()
        return appender

    def _close_appender(self, path: str) -> None:
        with self._table:
            appender = self._appenders.pop(path, None)
        if appender is not None:
            os.close(appender.fd)

    def _cut_back(self, path: str, appender: _Appender, size: int) -> None:
        """Take partial bytes of a failed append away; if that fails too, nobody may append behind them."""
        try:
            if size < 0:
                raise OSError(errno.EIO, "the size is unknown")
            os.ftruncate(appender.fd, size)
        except OSError:
            self._poison(path)

    def _poison(self, path: str) -> None:
        self._poisoned.add(path)
        self._close_appender(path)

    def _sync_directory(self, path: str, full: str) -> None:
        try:
            _sync_fd(os.path.dirname(full))
        except OSError as error:
            self._poison(path)
            raise storage_failed("sync the directory of", path, error) from error


def _poisoned(path: str) -> FilePoisoned:
    return FilePoisoned(f"an earlier sync of '{path}' failed", hint="check the disk, then restart the node")


def _sync_fd(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    """Write everything; a short write is continued."""
    written = os.write(fd, data)
    while written < len(data):
        count = os.write(fd, memoryview(data)[written:])
        if count == 0:
            raise OSError(errno.ENOSPC, "the kernel wrote nothing")
        written += count
