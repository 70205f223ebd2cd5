"""From the name of a place to its objects: a directory, or a bucket with credentials from the environment or a file.

Credentials never come from a command line, where every user of the machine can read them, and never from a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Final

from frys_node.base.errors import ConfigError, UsageError
from frys_node.base.ports import Disk, Executor
from frys_node.secure.errors import UnsafePermissions
from snapshots.config import SnapshotsConfig
from snapshots.objects import DirectoryObjects, Objects
from snapshots.s3 import S3Location, S3Objects, parse_place

SAVED_DIRECTORY: Final = "snapshots/saved"
"""Where a node keeps its snapshots if nobody says otherwise, in its data directory."""

CREDENTIALS_BYTES_MAX: Final = 64 << 10

PATH_BYTES_MAX: Final = 3_072
"""Longest path of a directory: with the names in it, it stays below the 4,096 bytes that Linux takes."""

PART_BYTES_MAX: Final = 255
"""Longest name in a path, on every file system in use."""


class Places:
    """Opens places for one node."""

    def __init__(
        self,
        *,
        disk: Disk,
        executor: Executor,
        environ: Mapping[str, str],
        open_directory: Callable[[str], Disk],
        read_file: Callable[[str, int], tuple[bytes, int] | None],
        own: str = "the data directory",
    ) -> None:
        self._disk = disk
        self._executor = executor
        self._environ = environ
        self._open_directory = open_directory
        self._read_file = read_file
        """Content, cut a byte after the given length, and permission bits of a file that the settings name."""
        self._own = own

    def open(self, text: str, config: SnapshotsConfig) -> Objects:
        """Return the objects of a place; empty: what is configured, or else the node's own directory.

        Raises:
            UsageError: The text names no place.
            ConfigError: There are no credentials, or their file cannot be used.
            UnsafePermissions: Everybody can read that file. It was not used.
            NoStoreLibrary: The library for object stores is not installed.
        """
        text = text or config.store
        if not text:
            return DirectoryObjects(
                self._disk, self._executor, place=f"{self._own}/{SAVED_DIRECTORY}", directory=SAVED_DIRECTORY
            )
        if text.startswith("s3://"):
            return S3Objects(self.locate(text, config), self._executor)
        if "://" in text:
            raise UsageError(f"'{text}' is not a place for snapshots", hint="write s3://bucket/prefix or a directory")
        check_directory(text)
        return DirectoryObjects(self._open_directory(text), self._executor, place=text)

    def locate(self, text: str, config: SnapshotsConfig) -> S3Location:
        """Return bucket, endpoint and credentials of an object store."""
        bucket, prefix = parse_place(text)
        found = _credentials(self._read(config.s3_credentials_file)) if config.s3_credentials_file else self._environ
        access, secret = found.get("AWS_ACCESS_KEY_ID", ""), found.get("AWS_SECRET_ACCESS_KEY", "")
        if not access or not secret:
            raise ConfigError(
                f"there are no credentials for {text}",
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the node's environment, or name a file with"
                " plugins.snapshots.s3_credentials_file",
            )
        return S3Location(
            bucket=bucket,
            prefix=prefix,
            endpoint=config.s3_endpoint
            or self._environ.get("AWS_ENDPOINT_URL_S3", self._environ.get("AWS_ENDPOINT_URL", "")),
            region=config.s3_region or self._environ.get("AWS_REGION", "us-east-1"),
            is_path_style=config.s3_path_style,
            access_key=access,
            secret_key=secret,
            session_token=found.get("AWS_SESSION_TOKEN", ""),
        )

    def _read(self, path: str) -> str:
        found = self._read_file(path, CREDENTIALS_BYTES_MAX)
        data, mode = (None, 0) if found is None else found
        if mode & 0o007:
            raise UnsafePermissions(
                f"the credentials file {path} can be read by everybody (mode {mode:04o})", hint=f"chmod 600 {path}"
            )
        if data is None or len(data) > CREDENTIALS_BYTES_MAX:
            raise ConfigError(
                f"the credentials file {path} {'is missing' if data is None else 'is too long'}",
                hint="write AWS_ACCESS_KEY_ID=... and AWS_SECRET_ACCESS_KEY=... into it, a line each, mode 0600",
            )
        return data.decode(errors="replace")


def check_directory(text: str) -> None:
    """Refuse a text that names no directory, or another one than it seems to (`UsageError`). Nothing is touched."""
    shown = text if len(text) <= PART_BYTES_MAX else f"{text[:PART_BYTES_MAX]}..."
    path = PurePosixPath(text)
    if not path.is_absolute():
        raise UsageError(f"'{shown}' is not an absolute path", hint="the node's own working directory is not yours")
    parts = [len(part.encode(errors="surrogateescape")) for part in path.parts]
    if "\0" in text or ".." in path.parts or sum(parts) + len(parts) > PATH_BYTES_MAX or max(parts) > PART_BYTES_MAX:
        raise UsageError(
            f"'{shown}' is not a path for snapshots",
            hint=f"write one without '..' and zero bytes, of {PATH_BYTES_MAX} bytes at most",
        )


def _credentials(text: str) -> dict[str, str]:
    """Read ``KEY=value`` lines, or a profile of an AWS credentials file (``aws_access_key_id = ...``)."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator and not key.lstrip().startswith(("#", ";")):
            found.setdefault(key.strip().removeprefix("export ").upper(), value.strip().strip("\"'"))
    return found
