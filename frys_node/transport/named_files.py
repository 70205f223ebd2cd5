"""Files that an operator names in a setting: anywhere on the machine, read only, never made."""

from __future__ import annotations

import os
import stat

from frys_node.transport.errors import storage_failed


def read_named_file(path: str, bytes_max: int) -> tuple[bytes, int] | None:
    """Return the first `bytes_max` + 1 bytes of a file and its permission bits, None if there is none.

    Links are followed, unlike in the data directory: whoever writes the settings chose the path, and Kubernetes mounts
    every secret behind one. The bits are those of the file that was read.

    Raises:
        StorageError: It is there and cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            return file.read(bytes_max + 1) or b"", mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise storage_failed("read", path, error) from error
