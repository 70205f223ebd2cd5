"""Files that a command makes or reads for its user: new ones whole or not at all, secret ones by their owner only."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from frys_node.base.errors import AlreadyExists, StorageError, UsageError
from frys_node.secure.errors import UnsafePermissions

STDIN: Final = "-"
STDOUT: Final = "-"

NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
"""What a file system without hard links answers."""

NO_UNNAMED: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})
"""What a file system answers that has no files without a name."""


class FileFailed(StorageError):
    """A file of the command's user cannot be read or written. Nothing was left half-written under its name."""

    code = "cli.file"


def failed(what: str, path: Path, error: OSError) -> FileFailed:
    """Build the error for a file that cannot be used; `what` is such as ``read``."""
    return FileFailed(
        f"cannot {what} {path}: {error.strerror or error}", hint="check the path, its rights and the disk"
    )


class NewFile:
    """A file that appears under its name, complete and durable, when `commit` is called, and otherwise not at all.

    Until then it has no name, so that a command that is killed leaves nothing. Where a file system has no such files
    (NFS), it is a hidden one beside it, ``.NAME.part``, which the next run removes if this one is killed. Readable by
    its owner only. A file of that name is never replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.part")
        self._is_named = False
        self._fd = -1

    def __enter__(self) -> Self:
        if os.path.lexists(self.path):
            raise self._exists()
        try:
            try:
                self._fd = os.open(self.path.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
            except OSError as error:
                if error.errno not in NO_UNNAMED:
                    raise
                self._open_part()
        except OSError as error:
            raise failed("write", self.path, error) from error
        return self

    def _open_part(self) -> None:
        """Make the hidden file, in place of one that a run left which was killed."""
        with suppress(FileNotFoundError):
            left = os.open(self._part, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._part.unlink()
            except BlockingIOError:
                raise AlreadyExists(
                    f"{self.path} is being written by another command", hint="wait for it, or choose another name"
                ) from None
            finally:
                os.close(left)
        self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._is_named = True
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _exists(self) -> AlreadyExists:
        return AlreadyExists(f"{self.path} exists, and is not replaced", hint="choose another name with --out")

    def write(self, data: bytes) -> None:
        """Append all of the bytes."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise failed("write", self.path, error) from error

    def commit(self) -> None:
        """Give the file its name, durably.

        Raises:
            AlreadyExists: Somebody has made one of that name meanwhile; it stands.
        """
        try:
            os.fsync(self._fd)
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._link(directory)
                os.fsync(directory)
            finally:
                os.close(directory)
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            raise failed("write", self.path, error) from error

    def _link(self, directory: int) -> None:
        """Name the file; a link, unlike a rename, replaces nothing, but not every file system has links."""
        if not self._is_named:
            # With a descriptor given, the link is made to what the entry in /proc leads to, and not to the entry.
            os.link(f"/proc/self/fd/{self._fd}", self.path.name, dst_dir_fd=directory, follow_symlinks=True)
            return
        try:
            os.link(self._part, self.path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if os.path.lexists(self.path):
                raise self._exists() from None
            self._part.rename(self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_named:
            self._part.unlink(missing_ok=True)
        os.close(self._fd)


class StandardOutput:
    """Standard output as a place for a file that a pipe takes on. Who reads it has to see to its being whole."""

    path = Path("standard output")

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            raise UsageError("these bytes are not for a terminal", hint="name a file with --out, or pipe them on")
        return self

    def write(self, data: bytes) -> None:
        """Pass all of the bytes on; a reader that is gone is an error, as the file is of no use then."""
        try:
            sys.stdout.buffer.write(data)
        except OSError as error:
            raise self._failed(error) from error

    def commit(self) -> None:
        """Flush what is left."""
        try:
            sys.stdout.buffer.flush()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> FileFailed:
        # The interpreter flushes once more at its end, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failed("write", self.path, error)

    def __exit__(self, *_: object) -> None:
        return None


def write_new(*files: tuple[Path, str]) -> None:
    """Write new files, mode 0600, which get their names in this order once all of them are complete.

    Raises:
        AlreadyExists, FileFailed: One is there, or cannot be written. None was left.
    """
    with ExitStack() as stack:
        made = [stack.enter_context(NewFile(path)) for path, _ in files]
        for file, (_, text) in zip(made, files, strict=True):
            file.write(text.encode())
        named: list[Path] = []
        try:
            for file in made:
                file.commit()
                named.append(file.path)
        except BaseException:
            for path in named:
                path.unlink(missing_ok=True)
            raise


def read_text(path: Path, bytes_max: int) -> str:
    """Return the text of a small file (`FileFailed`, `UsageError`)."""
    try:
        with path.open("rb") as file:
            return _text(file.read(bytes_max + 1), str(path), bytes_max)
    except OSError as error:
        raise failed("read", path, error) from error


def read_secret_text(given: str, bytes_max: int) -> str:
    """Return the text of a file with a secret, or of standard input for ``-``.

    Raises:
        UnsafePermissions: Others may read the file. It was not used.
        FileFailed, UsageError: It cannot be read, or is too long for what it should be.
    """
    if given == STDIN:
        return _text(sys.stdin.buffer.read(bytes_max + 1), "standard input", bytes_max)
    path = Path(given)
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise UnsafePermissions(f"{path} can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}")
            return _text(file.read(bytes_max + 1), str(path), bytes_max)
    except OSError as error:
        raise failed("read", path, error) from error


def _text(data: bytes, source: str, bytes_max: int) -> str:
    if len(data) > bytes_max:
        raise UsageError(f"{source} is longer than {bytes_max} bytes: it is something else")
    return data.decode(errors="replace")
